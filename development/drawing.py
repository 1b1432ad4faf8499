"""Draws graphs in the page's own format (0.4) from the host's node definitions, in columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .widgets import input_specs, widget_of

GAP, MARGIN, TOP = 50, 20, 60
SOCKET, WIDGET, TEXT_BOX, FRAME, PREVIEW = 20, 24, 100, 8, 300
# What the page adds once a node runs (its preview) or is linked (the changed words).
GROWTH = {**dict.fromkeys(("StyleDiffusionDDIMInvert", "StyleDiffusionLearnValueEmbedding",
                           "StyleDiffusionGenerate", "StyleDiffusionSample",
                           "SamplerCustomAdvanced"), 220),
          "StyleDiffusionP2PlusController": 90}
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
    """A graph that grows from left to right, one titled column after the other."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.info = object_info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.left = MARGIN

    def column(self, title: str, width: int) -> None:
        """Begin a column; what is added from now on stands in it, from the top down."""
        self.groups.append({
            "id": len(self.groups) + 1, "title": f"{len(self.groups) + 1}  {title}",
            "bounding": [self.left - MARGIN, 0, width + 2 * MARGIN, TOP],
            "color": COLOURS[len(self.groups) % len(COLOURS)], "flags": {},
        })
        self.left += width + 3 * MARGIN

    def note(self, text: str, height: int) -> None:
        """A note in the present column."""
        self._place("MarkdownNote", height, title="Read me", widgets_values=[text])

    def add(
        self, kind: str, links: dict[str, Output] | None = None, height: int = 0,
        models: list[dict[str, str]] | None = None, /, **values: Any,
    ) -> Node:
        """A node of the present column with links to earlier ones and values for its widgets.

        Raises KeyError for a type, link or value that the host's definitions do not have.
        """
        schema, links = self.info[kind], dict(links or {})
        node = self._place(kind, height or self._height(schema))
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
        bottom = max(node["pos"][1] + node["size"][1] for node in self.nodes) + MARGIN
        for group in self.groups:
            group["bounding"][3] = bottom
        return {
            "revision": 0, "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": self.groups,
            "extra": {"ds": {"scale": 0.8, "offset": [60, 60]}}, "version": 0.4,
        }

    def _place(self, kind: str, height: int, **more: Any) -> dict[str, Any]:
        left, _, width, reached = self.groups[-1]["bounding"]
        node = {
            "id": len(self.nodes) + 1, "type": kind, "pos": [left + MARGIN, reached],
            "size": [width - 2 * MARGIN, height], "flags": {}, "order": len(self.nodes), "mode": 0,
            "inputs": [], "outputs": [], "properties": {}, **more,
        }
        self.groups[-1]["bounding"][3] = reached + height + GAP
        self.nodes.append(node)
        return node

    def _link(self, source: Output, node: dict[str, Any], slot: dict[str, Any]) -> int:
        number, place = len(self.links) + 1, len(node["inputs"])
        self.links.append([number, source.node, source.slot, node["id"], place, source.kind])
        feeding = self.nodes[source.node - 1]["outputs"][source.slot]
        feeding["links"] = [*(feeding["links"] or []), number]
        return number

    def _height(self, schema: dict[str, Any]) -> int:
        """What the page needs for a node: sockets, then widgets, then the picture of an outlet."""
        specs = list(input_specs(schema))
        widgets = [options for name, kind, options in specs if widget_of(name, kind, options)]
        sockets = max(len(specs) - len(widgets), len(schema["output"]))
        rows = sum(TEXT_BOX if options.get("multiline") else WIDGET for options in widgets)
        shown = PREVIEW if schema["output_node"] else GROWTH.get(schema["name"], 0)
        return SOCKET * sockets + FRAME + rows + (FRAME if widgets else 0) + shown


def _first(type_of: Any, options: dict[str, Any]) -> Any:
    """What a list of choices shows at first."""
    choices = type_of if isinstance(type_of, list) else options.get("options") or [""]
    return choices[0] if choices else ""
