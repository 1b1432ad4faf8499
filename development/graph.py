"""Turns a graph as the page saves it (format 0.4) into the API format that the server runs."""

from __future__ import annotations

from typing import Any

from .subgraphs import PRIMITIVE, unpacked
from .widgets import extra_entries, nested_input, widgets_of

NOTES = ("Note", "MarkdownNote")
REROUTE = "Reroute"
MUTED, BYPASSED = 2, 4

Prompt = dict[str, dict[str, Any]]


class GraphError(ValueError):
    """A graph that cannot be converted, with the node it fails at and what to do."""


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """Convert a saved graph to an API prompt, by the host's /object_info, as the page would.

    Muted nodes are left out, bypassed ones and reroutes are led around, a primitive's value goes
    to the widgets it feeds, subgraphs are unpacked. {a|b} choices in texts are left as they are.
    """
    return _Conversion(workflow, object_info).prompt()


class _Conversion:
    """One graph on its way: nodes and links by id."""

    def __init__(self, workflow: dict[str, Any], object_info: dict[str, Any]) -> None:
        if "nodes" not in workflow or workflow.get("version") != 0.4:
            raise GraphError(
                "Not a graph of format 0.4: save it with the page's File > Save, not File > Export"
                " (API)."
            )
        self.info, workflow = object_info, unpacked(workflow)
        self.nodes: dict[int, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[int, list[Any]] = {link[0]: link for link in workflow["links"]}

    def prompt(self) -> Prompt:
        return {
            str(node_id): {
                "class_type": node["type"],
                "inputs": self._inputs(node),
                "_meta": {"title": self._title(node)},
            }
            for node_id, node in self.nodes.items()
            if not self._is_virtual(node) and node.get("mode", 0) not in (MUTED, BYPASSED)
        }

    def _inputs(self, node: dict[str, Any]) -> dict[str, Any]:
        """The inputs of one node: what its widgets hold, then what its links bring."""
        inputs = self._widget_values(node)
        for slot in node.get("inputs") or []:
            source = self._source(slot.get("link"), [])
            if source is None:
                continue
            origin, origin_slot = source
            if origin["type"] == PRIMITIVE:
                inputs[slot["name"]] = _wrapped(self._primitive_value(origin))
            else:
                inputs[slot["name"]] = [str(origin["id"]), origin_slot]
        return inputs

    def _widget_values(self, node: dict[str, Any]) -> dict[str, Any]:
        schema = self._schema(node)
        widgets = widgets_of(schema)
        values = node.get("widgets_values") or []
        if isinstance(values, dict):
            return {w.name: _wrapped(values[w.name]) for w in widgets if w.name in values}
        expected = len(widgets) + sum(widget.controls for widget in widgets)
        if not 0 <= len(values) - expected <= extra_entries(node["type"], schema):
            names = ", ".join(widget.name for widget in widgets) or "none"
            raise GraphError(
                f"{self._name(node)} has {len(values)} widget values where {expected} belong"
                f" (widgets: {names}): it was saved with another version of the node. Open the"
                " graph in ComfyUI, check the node and save it again."
            )
        found, position = {}, 0
        for widget in widgets:
            found[widget.name] = _wrapped(values[position])
            position += 1 + widget.controls
        return found

    def _schema(self, node: dict[str, Any]) -> dict[str, Any]:
        schema: dict[str, Any] | None = self.info.get(node["type"])
        if schema is None:
            raise GraphError(
                f"{self._name(node)} is of a type this ComfyUI does not have: install the pack it"
                " comes from, or remove the node."
            )
        if nested := nested_input(schema):
            raise GraphError(
                f"{self._name(node)} has an input '{nested}' that decides which other inputs there"
                " are, which is not supported here: use another node."
            )
        return schema

    def _source(
        self, link_id: int | None, seen: list[int], kind: str | None = None
    ) -> tuple[dict[str, Any], int] | None:
        """The node and output that feed a link, past reroutes and bypassed nodes; None if muted.

        `kind` is the type wanted at the far end, `seen` the links followed so far.
        """
        if link_id is None:
            return None
        if link_id not in self.links:
            raise GraphError(
                f"Link {link_id} leads nowhere: open the graph in ComfyUI and save it."
            )
        _, origin_id, origin_slot, _, _, link_kind, *_ = self.links[link_id]
        node = self.nodes[origin_id]
        if link_id in seen:
            raise GraphError(
                f"{self._name(node)} feeds itself: remove one of the links of the loop."
            )
        if node.get("mode", 0) == MUTED:
            return None
        kind = kind or link_kind
        inputs = node.get("inputs") or []
        if node["type"] == REROUTE:
            onward = 0 if inputs else None
        elif node.get("mode", 0) == BYPASSED:
            onward = _bypass_slot(node, origin_slot, kind)
        else:
            return node, origin_slot
        if onward is None:
            return None
        return self._source(inputs[onward].get("link"), [*seen, link_id], kind)

    def _primitive_value(self, node: dict[str, Any]) -> Any:
        values = node.get("widgets_values") or []
        if not values:
            raise GraphError(f"{self._name(node)} has no value: set one in ComfyUI and save again.")
        return values[0]

    def _is_virtual(self, node: dict[str, Any]) -> bool:
        return node["type"] in (*NOTES, REROUTE, PRIMITIVE)

    def _title(self, node: dict[str, Any]) -> str:
        shown = self.info.get(node["type"], {}).get("display_name")
        return str(node.get("title") or shown or node["type"])

    def _name(self, node: dict[str, Any]) -> str:
        title = self._title(node)
        return f"Node {node['id']} '{title}' ({node['type']})"


def _bypass_slot(node: dict[str, Any], output: int, kind: str) -> int | None:
    """The input that stands in for an output of a bypassed node: same place, else same type."""
    kinds = [slot["type"] for slot in node.get("inputs") or []]
    own = node["outputs"][output]["type"]
    if kind in ("*", ""):
        return (output if output < len(kinds) else 0) if kinds else None
    if output < len(kinds) and _connects(kinds[output], own) and _connects(kinds[output], kind):
        return output
    if kind in kinds:
        return kinds.index(kind)
    fitting = (i for i, k in enumerate(kinds) if _connects(k, own) and _connects(k, kind))
    return next(fitting, None)


def _connects(one: str, other: str) -> bool:
    """Whether the page would let two slot types be linked; types may be lists with commas."""
    if "*" in (one, other) or "" in (one, other):
        return True
    return not set(one.lower().split(",")).isdisjoint(other.lower().split(","))


def _wrapped(value: Any) -> Any:
    """A list as a value is told apart from a link, which is a list as well."""
    return {"__value__": value} if isinstance(value, list) else value
