"""The ready-made blocks of subgraphs/: drawn from the definitions, listed, and running."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from demo import scenes
from development import blocks
from development.drawing import Drawing
from development.examples import as_text
from development.graph import to_prompt
from development.parts import MODEL, SCENE
from development.server import Server
from training import trials

pytestmark = pytest.mark.usefixtures("silent")
SOURCE = scenes.caption(trials.DEMO.scene)
TARGETS = "\n".join(scenes.caption(edit) for edit in trials.DEMO.edits)


def shipped(name: str) -> dict[str, Any]:
    return dict(json.loads(blocks.path_of(name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_the_shipped_block_is_what_the_node_definitions_give(server: Server, name: str) -> None:
    """Otherwise `python3 dev.py graphs` draws it anew."""
    drawn = blocks.BLOCKS[name](server.object_info()).graph()
    assert blocks.path_of(name).read_text(encoding="utf-8") == as_text(drawn)


def test_the_server_lists_every_block_of_the_folder_and_gives_its_file(server: Server) -> None:
    listed = {entry["name"]: key for key, entry in server.get_json("/global_subgraphs").items()
              if entry["info"]["node_pack"] == "custom_nodes.stylediffusion"}
    assert set(listed) == {path.stem for path in blocks.FOLDER.iterdir()} == set(blocks.BLOCKS)
    for name, key in listed.items():
        assert json.loads(server.get_json(f"/global_subgraphs/{key}")["data"]) == shipped(name)


def with_block(server: Server) -> dict[str, Any]:
    """The demo model and its picture through the block; what comes out is saved."""
    block = shipped(blocks.EDIT)
    drawing = Drawing(server.object_info())
    drawing.column("Picture", 300)
    model, trial = drawing.add(MODEL), trials.DEMO
    scene = drawing.add(SCENE, object=trial.object, colour=trial.colour, place=trial.place,
                        style=trial.style, seed=trial.seed)
    graph = drawing.graph()
    (shown,) = block["nodes"]
    shown["id"] = 10
    feeding = {"model": model["model"], "clip": model["clip"], "vae": model["vae"],
               "image": scene["image"]}
    for place, slot in enumerate(shown["inputs"]):
        if slot["name"] in feeding:
            source = feeding[slot["name"]]
            slot["link"] = 100 + place
            graph["links"].append(
                [100 + place, source.node, source.slot, 10, place, slot["type"]])
    widgets = [slot["name"] for slot in shown["inputs"] if "widget" in slot]
    shown["widgets_values"][widgets.index("prompt")] = SOURCE
    shown["widgets_values"][widgets.index("targets")] = TARGETS
    graph["nodes"].append(shown)
    for place, number in ((0, 11), (1, 12)):
        graph["links"].append([200 + place, 10, place, number, 0, "IMAGE"])
        graph["nodes"].append({
            "id": number, "type": "SaveImage", "widgets_values": ["StyleDiffusion/block"],
            "inputs": [{"name": "images", "type": "IMAGE", "link": 200 + place}]})
    return {**graph, "definitions": block["definitions"]}


def test_a_graph_with_the_block_gives_its_edits_and_its_reconstruction(server: Server) -> None:
    prompt = to_prompt(with_block(server), server.object_info())
    (inverted,) = (node["inputs"] for node in prompt.values()
                   if node["class_type"] == "StyleDiffusionDDIMInvert")
    assert inverted["prompt"] == SOURCE
    inverted["steps"] = 5
    images = server.images(server.wait(server.queue(prompt)))
    assert {number: len(files) for number, files in images.items()} == {"11": 2, "12": 1}
    pictures = [Image.open(io.BytesIO(data)).convert("RGB")
                for files in images.values() for data in files]
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert all(low < high for low, high in (p.convert("L").getextrema() for p in pictures))
