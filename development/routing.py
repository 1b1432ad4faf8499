"""Leads links around nodes: through lanes above the columns, and between the nodes of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LANE, BESIDE, STEP, ABOVE = 14, 12, 5, 7


@dataclass(frozen=True)
class Place:
    """Where a node stands: its column with that one's edges, and the top of its title."""

    column: int
    left: int
    right: int
    top: int


@dataclass
class Routes:
    """The bends of all links, as the page saves them."""

    reroutes: list[dict[str, Any]] = field(default_factory=list)
    extensions: list[dict[str, Any]] = field(default_factory=list)
    lanes: dict[tuple[int, int], int] = field(default_factory=dict)

    def extra(self) -> dict[str, Any]:
        """What a graph of format 0.4 says of them."""
        return {"reroutes": self.reroutes, "linkExtensions": self.extensions}

    def bend(self, link: int, x: float, y: float, parent: int | None) -> int:
        """The number of a bend at (x, y) behind another, which links that meet there share."""
        for found in self.reroutes:
            if found["pos"] == [x, y] and found.get("parentId") == parent:
                found["linkIds"].append(link)
                return int(found["id"])
        number = len(self.reroutes) + 1
        self.reroutes.append({"id": number, **({"parentId": parent} if parent else {}),
                              "pos": [x, y], "linkIds": [link]})
        return number


def routed(links: list[list[Any]], places: dict[int, Place], head: int) -> Routes:
    """Bends for links that would run behind nodes; the lowest lane lies `head` above the nodes."""
    routes = Routes()
    for number, origin, slot, target, *_ in links:
        if origin not in places:
            continue
        start, end = places[origin], places[target]
        if end.column == start.column + 1:
            continue
        if end.column == start.column:
            lane, ways_out = end.top - ABOVE, 0
        else:
            ways_out = routes.lanes.setdefault((origin, slot), len(routes.lanes))
            lane = -head - LANE * ways_out
        first = routes.bend(number, start.right + BESIDE + STEP * (ways_out % 4), lane, None)
        last = routes.bend(number, end.left - BESIDE - STEP * (ways_out % 4), lane, first)
        routes.extensions.append({"id": number, "parentId": last})
    return routes
