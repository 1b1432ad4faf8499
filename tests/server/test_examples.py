"""Every example graph runs to the end in the real ComfyUI, and is what the generator draws."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from demo import scenes
from development import examples, parts
from development.graph import Prompt, to_prompt
from development.server import Server
from tests import checkpoints
from tests.host.test_vision import tower_file
from training import trials

OUTLETS = ("SaveImage", "StyleDiffusionComparisonSheet", "StyleDiffusionTauSweep",
           "StyleDiffusionHeatmaps")
PHOTOS = [name for name in examples.EXAMPLES if name.startswith("Edit a photo")]
OTHERS = [name for name in examples.EXAMPLES if name not in (*PHOTOS, "Edit a saved inversion")]
NEEDED = {"checkpoints": parts.CHECKPOINT["name"], "clip_vision": parts.VISION["name"],
          "loras": parts.LORA, "controlnet": parts.CONTROL_NET["name"]}
pytestmark = pytest.mark.usefixtures("silent")


@pytest.fixture(scope="module")
def equipped(server: Server) -> Iterator[Server]:
    """The server with random weights by the names of the downloads, and a small photo."""
    models = server.base / "models"
    paths: dict[str, Path] = {folder: models / folder / name for folder, name in NEEDED.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.checkpoint(paths["checkpoints"])
    checkpoints.lora(paths["loras"])
    checkpoints.controlnet(paths["controlnet"])
    save_file(tower_file(), paths["clip_vision"])
    photo = io.BytesIO()
    scenes.draw(trials.DEMO.scene).save(photo, "PNG")
    server.upload_image(parts.PHOTO, photo.getvalue())
    yield server
    for path in paths.values():
        path.unlink()


def graph(server: Server, name: str) -> dict[str, Any]:
    return examples.drawn(server.object_info(), name)


def short(prompt: Prompt) -> Prompt:
    """The same in a few seconds: few steps, small photos, a coarse sweep."""
    fewer = {"steps": 5, "inner_steps": 2, "megapixels": 0.02, "row_values": "0, 0.6",
             "column_values": "0, 0.6"}
    for node in prompt.values():
        if node["class_type"] != "StyleDiffusionHeatmaps":
            node["inputs"].update({k: v for k, v in fewer.items() if k in node["inputs"]})
    return prompt


def pictures(server: Server, name: str) -> dict[str, int]:
    """How many pictures each node that shows some gave, by its type."""
    prompt = short(to_prompt(graph(server, name), server.object_info()))
    images = server.images(server.wait(server.queue(prompt)))
    for files in images.values():
        for data in files:
            low, high = Image.open(io.BytesIO(data)).convert("L").getextrema()
            assert low < high, f"a picture of {name} is all one colour"
    return {prompt[node]["class_type"]: len(files) for node, files in images.items()}


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_the_shipped_graph_is_what_the_node_definitions_give(server: Server, name: str) -> None:
    """Otherwise `python3 dev.py graphs` draws it anew."""
    shipped = (examples.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert shipped == examples.as_text(graph(server, name))


def test_every_shipped_graph_is_an_example_with_a_thumbnail() -> None:
    names = {path.stem for path in examples.FOLDER.glob("*.json")}
    assert names == set(examples.EXAMPLES) == {p.stem for p in examples.FOLDER.glob("*.jpg")}


@pytest.mark.parametrize("name", OTHERS)
def test_a_graph_without_downloads_runs_to_the_end(server: Server, name: str) -> None:
    found = pictures(server, name)
    assert found.keys() <= set(OUTLETS)
    assert found or name == "Save an inversion"


@pytest.mark.parametrize("name", PHOTOS)
def test_a_graph_with_downloads_runs_on_random_weights(equipped: Server, name: str) -> None:
    assert pictures(equipped, name)["SaveImage"] == 2


def test_an_inversion_that_was_saved_is_edited_by_the_other_graph(server: Server) -> None:
    pictures(server, "Save an inversion")
    prompt = short(to_prompt(graph(server, "Edit a saved inversion"), server.object_info()))
    (loader,) = (node for node in prompt.values()
                 if node["class_type"] == "StyleDiffusionLoadInversion")
    choices = server.object_info()["StyleDiffusionLoadInversion"]["input"]["required"]["file"]
    options = choices[1]["options"] if isinstance(choices[0], str) else choices[0]
    loader["inputs"]["file"] = options[0]
    images = server.images(server.wait(server.queue(prompt)))
    assert [len(files) for files in images.values()] == [3]
