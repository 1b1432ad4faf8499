"""Draws graphs in the page's own format (0.4) from the host's node definitions, in columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .routing import LANE, Place, Routes, routed
from .sizes import PREVIEW, SHOWING, TITLE, height_of, reach_of
from .widgets import input_specs, widget_of

GAP, GUTTER, MARGIN, HEAD = 14, 40, 10, 30
NOTE_LINE, NOTE_LETTER, NOTE_FRAME = 17, 5.2, 30
COLOURS = ("#3f789e", "#88aa88", "#b58b2a", "#a1309b")

@dataclass(frozen=True)
class Output:
    """One output of a node that was drawn."""

    node: int
    slot: int
    kind: str


@dataclass
class Node:
    """A node that was drawn; its outputs by name."""

    content: dict[str, Any]
    outputs: dict[str, Output] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Output:
        return self.outputs[name]


class Drawing:
    """A graph that grows from left to right, column by column; a titled group has one or more."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.info = object_info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.places: dict[int, Place] = {}
        self.columns, self.left, self.width, self.reached, self.bottom = 0, 0, 0, 0, 0

    def column(self, title: str, width: int) -> None:
        """Begin a group and its first column; what is added now stands in it, from the top down."""
        self.groups.append({
            "id": len(self.groups) + 1, "title": f"{len(self.groups) + 1}  {title}",
            "bounding": [self._next_left() - MARGIN, 0, 2 * MARGIN, 0],
            "color": COLOURS[len(self.groups) % len(COLOURS)], "flags": {},
        })
        self.beside(width)

    def beside(self, width: int) -> None:
        """Begin another column of the same group."""
        self.left, self.width = self._next_left(), width
        self.columns, self.reached = self.columns + 1, 0
        bounding = self.groups[-1]["bounding"]
        bounding[2] = self.left + width + MARGIN - bounding[0]

    def note(self, text: str) -> None:
        """A note in the present column, as high as its text."""
        lines = sum(1 + int(len(part) * NOTE_LETTER / (self.width - 30))
                    for part in text.splitlines())
        self._place("MarkdownNote", NOTE_FRAME + NOTE_LINE * lines, 0, title="Read me",
                    widgets_values=[text])

    def add(
        self, kind: str, links: dict[str, Output] | None = None, height: int = 0,
        models: list[dict[str, str]] | None = None, /, **values: Any,
    ) -> Node:
        """A node of the present column with links to earlier ones and values for its widgets.

        Raises KeyError for a type, link or value that the host's definitions do not have.
        """
        schema, links = self.info[kind], dict(links or {})
        height = max(height, height_of(schema, values, bool(models)))
        node = self._place(kind, height, reach_of(schema, height))
        node["properties"] = {"Node name for S&R": kind, **({"models": models} if models else {})}
        node["widgets_values"] = []
        for name, type_of, options in input_specs(schema):
            slot = {"name": name, "type": "COMBO" if isinstance(type_of, list) else type_of}
            if name in (schema["input"].get("optional") or {}):
                slot["shape"] = 7
            widget = widget_of(name, type_of, options)
            if widget is not None:
                slot["widget"] = {"name": name}
                given = values.pop(name, options.get("default", _first(type_of, options)))
                node["widgets_values"] += [given, *["fixed"] * widget.controls]
            slot["link"] = self._link(links.pop(name), node, slot) if name in links else None
            node["inputs"].append(slot)
        if links or values:
            raise KeyError(f"{kind} has no input {', '.join([*links, *values])}")
        names = schema.get("output_name") or schema["output"]
        drawn = Node(node)
        for slot_number, (name, type_of) in enumerate(zip(names, schema["output"], strict=True)):
            node["outputs"].append({"name": name, "type": type_of, "links": None})
            drawn.outputs[name] = Output(node["id"], slot_number, type_of)
        return drawn

    def graph(self) -> dict[str, Any]:
        """The finished graph, as the page saves one."""
        routes = self._routes()
        top = -HEAD - LANE * len(routes.lanes) - TITLE
        for group in self.groups:
            group["bounding"][1], group["bounding"][3] = top, self.bottom + MARGIN - top
        return {
            "revision": 0, "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": self.groups,
            "extra": {"ds": {"scale": 0.8, "offset": [60, 60 - top]}, **routes.extra()},
            "version": 0.4,
        }

    def _routes(self) -> Routes:
        return routed(self.links, self.places, HEAD)

    def _next_left(self) -> int:
        return self.left + self.width + GUTTER if self.columns else self.left

    def _place(self, kind: str, height: int, reach: int, **more: Any) -> dict[str, Any]:
        top, number = self.reached, len(self.nodes) + 1
        node = {
            "id": number, "type": kind, "pos": [self.left, top + TITLE],
            "size": [self.width, height], "flags": {}, "order": len(self.nodes), "mode": 0,
            "inputs": [], "outputs": [], "properties": {}, **more,
        }
        self.places[number] = Place(self.columns, self.left, self.left + self.width, top)
        self.reached = top + TITLE + max(height, reach) + GAP
        shown = PREVIEW if kind in SHOWING else 0
        self.bottom = max(self.bottom, top + TITLE + height + shown)
        self.nodes.append(node)
        return node

    def _link(self, source: Output, node: dict[str, Any], slot: dict[str, Any]) -> int:
        number, place = len(self.links) + 1, len(node["inputs"])
        self.links.append([number, source.node, source.slot, node["id"], place, source.kind])
        feeding = self.nodes[source.node - 1]["outputs"][source.slot]
        feeding["links"] = [*(feeding["links"] or []), number]
        return number


def _first(type_of: Any, options: dict[str, Any]) -> Any:
    """What a list of choices shows at first."""
    choices = type_of if isinstance(type_of, list) else options.get("options") or [""]
    return choices[0] if choices else ""
