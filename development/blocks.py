"""The ready-made blocks of subgraphs/: a graph inside one node, drawn from the node definitions."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from .drawing import GUTTER, Drawing, Node, Output
from .examples import as_text
from .parts import CONTROL, INVERT, LEARN, SAMPLE
from .places import ROOT
from .routing import Routes
from .sizes import FRAME, LINE, LINE_BOX, SOCKET, TITLE
from .widgets import input_specs

FOLDER = ROOT / "subgraphs"
EDIT = "StyleDiffusion edit"
ENTRANCE, EXIT, DOOR_WIDTH, BLOCK_WIDTH = -10, -20, 160, 400
ALL_IMAGES = 4096


class Block(Drawing):
    """A graph that is shown as one node, whose inputs and outputs are added by name."""

    def __init__(
        self, object_info: dict[str, Any], name: str, description: str, aliases: list[str]
    ) -> None:
        super().__init__(object_info)
        self.name, self.description, self.aliases = name, description, aliases
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}
        self.rows: dict[str, int] = {}
        self.left += DOOR_WIDTH + GUTTER

    def takes(self, name: str) -> Output:
        """An input of the block; its type, and its widget if it has one, are of what it feeds."""
        self.inputs.append({"id": self._id(f"input {name}"), "name": name, "linkIds": []})
        return Output(ENTRANCE, len(self.inputs) - 1, "")

    def gives(self, name: str, source: Output) -> None:
        """An output of the block."""
        way_out = {"id": EXIT, "inputs": self.outputs}
        number = super()._link(source, way_out, {})
        self.outputs.append({"id": self._id(f"output {name}"), "name": name, "type": source.kind,
                             "linkIds": [number]})

    def graph(self) -> dict[str, Any]:
        """A graph of the one node that shows the block, with its definition."""
        inside = super().graph()
        widgets = [found["name"] for found in self.inputs if found["name"] in self.values]
        slots = [{"name": found["name"], "type": found["type"], "link": None,
                  **({"widget": {"name": found["name"]}} if found["name"] in widgets else {})}
                 for found in self.inputs]
        shown = {
            "id": 1, "type": self._id("block"), "pos": [0, TITLE],
            "size": [BLOCK_WIDTH, self._shown_height()], "flags": {}, "order": 0, "mode": 0,
            "title": self.name, "inputs": slots,
            "outputs": [{"name": found["name"], "type": found["type"], "links": None}
                        for found in self.outputs],
            "properties": {},
            "widgets_values": [self.values[name] for name in widgets],
        }
        return {
            "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [shown], "links": [],
            "groups": [], "definitions": {"subgraphs": [self._definition(inside)]},
            "extra": {"BlueprintDescription": self.description,
                      "BlueprintSearchAliases": self.aliases},
            "version": 0.4,
        }

    def _definition(self, inside: dict[str, Any]) -> dict[str, Any]:
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        doors = [[left, TITLE, DOOR_WIDTH, SOCKET * (len(found) + 2)] for left, found in (
            (0, self.inputs), (self._next_left(), self.outputs))]
        return {
            "id": self._id("block"), "version": 1, "revision": 0, "config": {},
            "state": {"lastGroupId": len(self.groups), "lastNodeId": len(self.nodes),
                      "lastLinkId": len(self.links), "lastRerouteId": 0},
            "name": self.name, "category": "StyleDiffusion", "description": self.description,
            "inputNode": {"id": ENTRANCE, "bounding": doors[0]},
            "outputNode": {"id": EXIT, "bounding": doors[1]},
            "inputs": self.inputs, "outputs": self.outputs, "widgets": [],
            "nodes": inside["nodes"], "groups": inside["groups"],
            "links": [dict(zip(names, link, strict=True)) for link in inside["links"]],
            "extra": {},
        }

    def _routes(self) -> Routes:
        return Routes()  # doors have no place, and inside there is room

    def _link(self, source: Output, node: dict[str, Any], slot: dict[str, Any]) -> int:
        if source.node != ENTRANCE:
            return super()._link(source, node, slot)
        found, number = self.inputs[source.slot], len(self.links) + 1
        found["type"] = slot["type"]
        found["linkIds"].append(number)
        self.links.append(
            [number, ENTRANCE, source.slot, node["id"], len(node["inputs"]), slot["type"]])
        if "widget" in slot:
            self.values[found["name"]] = node["widgets_values"][-1]
            options = {name: given for name, _, given in input_specs(self.info[node["type"]])}
            long = options[slot["name"]].get("multiline")
            self.rows[found["name"]] = LINE_BOX if long else LINE
        return number

    def _shown_height(self) -> int:
        sockets = max(len(self.inputs) - len(self.values), len(self.outputs))
        return SOCKET * sockets + FRAME + sum(self.rows.values())

    def _id(self, what: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.name}/{what}"))


def edit(object_info: dict[str, Any]) -> Block:
    """A picture and two prompts in, its edits and its reconstruction out."""
    block = Block(
        object_info, EDIT, "Edits your picture by its words: describe it in prompt, and write the "
        "same sentence with other words into targets, one edit a line. Inverts and learns once a "
        "picture.", ["stylediffusion", "edit real image", "prompt to prompt"])
    model, clip, vae, image, prompt, targets, words, tau_c, tau_s = map(block.takes, (
        "model", "clip", "vae", "image", "prompt", "targets", "blend_words", "tau_c", "tau_s"))
    block.column("Invert and learn, once a picture", 300)
    latent = block.add("VAEEncode", {"pixels": image, "vae": vae})["LATENT"]
    trajectory = block.add(INVERT, {
        "model": model, "clip": clip, "latent": latent, "prompt": prompt})["trajectory"]
    block.beside(300)
    embedding = block.add(LEARN, {"model": model, "trajectory": trajectory})["value_embedding"]
    block.column("Edit", 320)
    control = block.add(CONTROL, {
        "clip": clip, "trajectory": trajectory, "targets": targets, "tau_c": tau_c,
        "tau_s": tau_s, "blend_words": words})["control"]
    block.beside(260)
    sampled = block.add(SAMPLE, {
        "model": model, "trajectory": trajectory, "value_embedding": embedding,
        "control": control})["latent"]
    block.column("Look", 300)
    decoded = block.add("VAEDecode", {"samples": sampled, "vae": vae})["IMAGE"]
    block.gives("edits", _images(block, decoded, 1, ALL_IMAGES)["IMAGE"])
    block.gives("reconstruction", _images(block, decoded, 0, 1)["IMAGE"])
    return block


def _images(block: Block, batch: Output, first: int, count: int) -> Node:
    """Some of a batch: the reconstruction stands first, before the edits."""
    return block.add("ImageFromBatch", {"image": batch}, batch_index=first, length=count)


BLOCKS = {EDIT: edit}


def path_of(name: str) -> Path:
    """The file of a block; the page shows its name."""
    return FOLDER / f"{name}.json"


def written(object_info: dict[str, Any]) -> list[Path]:
    """All blocks, written to subgraphs/."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in BLOCKS.items():
        path_of(name).write_text(as_text(draw(object_info).graph()), encoding="utf-8",
                                 newline="\n")
    return [path_of(name) for name in BLOCKS]
