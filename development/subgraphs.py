"""Subgraphs of a saved graph, unpacked: their nodes in the place of the node that shows them."""

from __future__ import annotations

from typing import Any

ENTRANCE, EXIT, PRIMITIVE = -10, -20, "PrimitiveNode"
Graph = dict[str, Any]
Node = dict[str, Any]


def unpacked(workflow: Graph) -> Graph:
    """The same graph without subgraphs; node 2 inside node 5 becomes "5:2", as on the page.

    A muted or bypassed subgraph stays as it is.
    """
    found = (workflow.get("definitions") or {}).get("subgraphs") or []
    blocks = {block["id"]: block for block in found}
    while shown := next((node for node in workflow["nodes"]
                         if node["type"] in blocks and not node.get("mode")), None):
        workflow = _without(workflow, shown, blocks[shown["type"]])
    return workflow


def _without(workflow: Graph, shown: Node, block: Graph) -> Graph:
    """The graph with one node opened."""

    def inside(own: int | str) -> str:
        return f"{shown['id']}:{own}"

    feeding = {link[0]: link[1:3] for link in workflow["links"]}
    sources, given = _entrances(shown, block, feeding)
    links, leaving, linked = [], {}, set()
    for link in block["links"]:
        origin = [inside(link["origin_id"]), link["origin_slot"]]
        if link["origin_id"] == ENTRANCE:
            origin = sources[link["origin_slot"]]
        if link["target_id"] == EXIT:
            leaving[link["target_slot"]] = origin
        elif origin is not None:
            linked.add(link["id"])
            links.append([inside(link["id"]), *origin, inside(link["target_id"]),
                          link["target_slot"], link["type"]])
    nodes = [
        {**node, "id": inside(node["id"]), "inputs": [
            {**slot, "link": inside(slot["link"]) if slot["link"] in linked else None}
            for slot in node.get("inputs") or []]}
        for node in block["nodes"]]
    outer = [link if link[1] != shown["id"] else [link[0], *leaving[link[2]], *link[3:]]
             for link in workflow["links"] if link[3] != shown["id"]]
    kept = [node for node in workflow["nodes"] if node is not shown]
    return {**workflow, "nodes": [*kept, *given, *nodes], "links": [*outer, *links]}


def _entrances(
    shown: Node, block: Graph, feeding: dict[Any, list[Any]]
) -> tuple[list[list[Any] | None], list[Node]]:
    """(what feeds each input of a block: node and slot, or None; nodes for its widgets' values)."""
    slots = {slot["name"]: slot for slot in shown["inputs"]}
    values = dict(zip(_widgets(block), shown.get("widgets_values") or [], strict=False))
    sources: list[list[Any] | None] = []
    given: list[Node] = []
    for name in (found["name"] for found in block["inputs"]):
        link = slots.get(name, {}).get("link")
        source = None if link is None else feeding[link]
        if source is None and name in values:
            source = [f"{shown['id']}:{name}", 0]
            given.append({"id": source[0], "type": PRIMITIVE, "widgets_values": [values[name]]})
        sources.append(source)
    return sources, given


def _widgets(block: Graph) -> list[str]:
    """The inputs of a block that are shown as widgets, in the order of their values.

    Slots know their links; the page does not keep the places of slots that links name.
    """
    linked = {slot["link"] for node in block["nodes"] for slot in node.get("inputs") or []
              if "widget" in slot}
    shown = {link["origin_slot"] for link in block["links"]
             if link["origin_id"] == ENTRANCE and link["id"] in linked}
    return [found["name"] for i, found in enumerate(block["inputs"]) if i in shown]
