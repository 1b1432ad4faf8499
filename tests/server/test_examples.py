"""Every example graph runs to the end in the real ComfyUI, with all that its nodes have now."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from demo import drawing
from development import examples
from development.examples import EXAMPLES, Prompt
from development.server import Server
from tests import checkpoints
from tests.graphs import INVERT, LEARN
from tests.host.test_vision import tower_file
from training import trials

OUTLETS = ("SaveImage", "StyleDiffusionComparisonSheet", "StyleDiffusionTauSweep",
           "StyleDiffusionHeatmaps")
OPENS_A_FILE = "Edit a saved inversion"
PHOTOS = [name for name in EXAMPLES if examples.models(name)]
OTHERS = [name for name in EXAMPLES if name not in (*PHOTOS, OPENS_A_FILE)]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
LORA, PHOTO = "your_lora.safetensors", "example.png"
pytestmark = pytest.mark.usefixtures("silent")


@pytest.fixture(scope="module")
def equipped(server: Server) -> Iterator[Server]:
    """The server with random weights by the names of the downloads, and a small photo."""
    named = {"loras": LORA, **{model["directory"]: model["name"]
                               for name in PHOTOS for model in examples.models(name)}}
    paths: dict[str, Path] = {folder: server.base / "models" / folder / name
                              for folder, name in named.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.checkpoint(paths["checkpoints"])
    checkpoints.lora(paths["loras"])
    checkpoints.controlnet(paths["controlnet"])
    save_file(tower_file(), paths["clip_vision"])
    photo = io.BytesIO()
    drawing.draw(trials.DEMO.scene).save(photo, "PNG")
    server.upload_image(PHOTO, photo.getvalue())
    yield server
    for path in paths.values():
        path.unlink()


def short(prompt: Prompt) -> Prompt:
    """The same in a few seconds: few steps, small photos, a coarse sweep."""
    fewer = {"steps": 5, "inner_steps": 2, "megapixels": 0.01, "blend_threshold": 0.9,
             "row_values": "0, 0.6", "column_values": "0, 0.6"}
    for node in prompt.values():
        if node["class_type"] != "StyleDiffusionHeatmaps":
            node["inputs"].update({k: v for k, v in fewer.items() if k in node["inputs"]})
    return prompt


def pictures(server: Server, name: str) -> dict[str, int]:
    """How many pictures each node that shows some gave, by its type."""
    prompt = short(examples.prompt(name))
    if name in ("Edit a photo with a ControlNet", "Edit a photo with a LoRA"):
        prompt[examples.node_of(prompt, LEARN)]["inputs"]["preset"] = "exact"  # fewer evaluations
    images = server.images(server.wait(server.queue(prompt)))
    for files in images.values():
        for data in files:
            low, high = Image.open(io.BytesIO(data)).convert("L").getextrema()
            assert low < high, f"a picture of {name} is all one colour"
    return {prompt[node]["class_type"]: len(files) for node, files in images.items()}


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return isinstance(kind, list) or (kind in WIDGETS and not options.get("forceInput"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_graph_has_a_value_for_every_input_that_its_nodes_have_now(
    server: Server, name: str
) -> None:
    """Otherwise `python3 dev.py graphs` adds it."""
    info = server.object_info()
    for node in examples.prompt(name).values():
        definition = info[node["class_type"]]["input"]
        specs = {**definition["required"], **definition.get("optional", {})}
        inputs = {key: (spec[0], (spec[1:] or [{}])[0]) for key, spec in specs.items()}
        shown = {key for key, spec in inputs.items() if is_widget(*spec)}
        given = {key.split(".")[0] for key in node["inputs"]}  # latents.latent0 is one of latents
        assert definition["required"].keys() | shown <= given <= inputs.keys()


def test_every_shipped_graph_has_a_thumbnail_and_an_api_form() -> None:
    assert len(EXAMPLES) == 14 and set(EXAMPLES) == {
        path.stem for path in examples.FOLDER.glob("*.jpg")} == {
        path.stem for path in examples.API.iterdir()}


def test_the_demo_is_of_the_trial_chosen_before_training() -> None:
    wanted = {"object": trials.DEMO.object, "colour": trials.DEMO.colour,
              "place": trials.DEMO.place, "style": trials.DEMO.style, "seed": trials.DEMO.seed}
    for name in ("Demo", "Save an inversion", "See where words look"):
        prompt = examples.prompt(name)
        scene = examples.node_of(prompt, "StyleDiffusionDemoScene")
        assert prompt[scene]["inputs"] == wanted
        assert prompt[examples.node_of(prompt, INVERT)]["inputs"]["prompt"] == [scene, 1]


def painters(prompt: Prompt, node_id: str) -> list[str]:
    """What made each picture of a latent, in order, as the method is called."""
    node = prompt[node_id]
    inputs = node["inputs"]
    if node["class_type"] == "BatchLatentsNode":
        return [name for latent in inputs.values() for name in painters(prompt, latent[0])]
    if node["class_type"] == "LatentFromBatch":
        return painters(prompt, inputs["samples"][0])[inputs["batch_index"]:][:inputs["length"]]
    if node["class_type"] == "KSampler":
        return ["SDEdit"]
    learnt = inputs.get("value_embedding")
    plain = "direct inversion" if inputs["exact_source"] else "DDIM"
    method = prompt[learnt[0]]["inputs"].get("learn", "StyleDiffusion") if learnt else plain
    return ["reconstruction", method]


def test_the_names_on_the_sheet_of_all_inversions_are_of_what_painted_each() -> None:
    prompt = examples.prompt("Inversions side by side")
    sheet = prompt[examples.node_of(prompt, "StyleDiffusionComparisonSheet")]["inputs"]
    names = prompt[sheet["labels"][0]]["inputs"]["value"].splitlines()
    assert painters(prompt, sheet["latent"][0]) == ["reconstruction", *names]
    assert sorted(names) == sorted(["StyleDiffusion", "null text", "text embedding", "SDEdit",
                                    "negative prompt", "direct inversion", "DDIM"])


@pytest.mark.parametrize("name", OTHERS)
def test_a_graph_without_downloads_runs_to_the_end(server: Server, name: str) -> None:
    found = pictures(server, name)
    assert found.keys() <= set(OUTLETS)
    assert found or name == "Save an inversion"


@pytest.mark.parametrize("name", PHOTOS)
def test_a_graph_with_downloads_runs_on_random_weights(equipped: Server, name: str) -> None:
    kinds = {node["class_type"] for node in examples.prompt(name).values()}
    edits_alone = "StyleDiffusionKeepPixels" in kinds
    assert pictures(equipped, name)["SaveImage"] == (1 if edits_alone else 2)


def test_an_inversion_that_was_saved_is_edited_by_the_other_graph(server: Server) -> None:
    pictures(server, "Save an inversion")
    prompt = short(examples.prompt(OPENS_A_FILE))
    (loader,) = (node for node in prompt.values()
                 if node["class_type"] == "StyleDiffusionLoadInversion")
    choices = server.object_info()["StyleDiffusionLoadInversion"]["input"]["required"]["file"]
    options = choices[1]["options"] if isinstance(choices[0], str) else choices[0]
    loader["inputs"]["file"] = options[0]
    images = server.images(server.wait(server.queue(prompt)))
    assert [len(files) for files in images.values()] == [3]
