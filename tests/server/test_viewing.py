"""Cross-Attention Heatmaps and Comparison Sheet in the real ComfyUI, on the demo graph."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo import drawing
from development import examples
from development.examples import Prompt
from development.server import ExecutionError, PromptRejected, Server
from tests.graphs import CONTROL, INVERT, LEARN, SAMPLE, cached_nodes, changed, short
from training import editing, trials

HEAT, COMPARE, SCENE = (
    "StyleDiffusion" + name for name in ("Heatmaps", "ComparisonSheet", "DemoScene"))
MODEL = "StyleDiffusionLoadDemoModel"


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    """The demo graph, and all views of it: masks are shown as pictures too."""
    prompt = short(examples.prompt("Demo"))

    def at(kind: str, slot: int = 0) -> list[Any]:
        return [examples.node_of(prompt, kind), slot]

    seen = {"model": at(MODEL), "clip": at(MODEL, 1), "trajectory": at(INVERT), "image": at(SCENE),
            "words": "cat, city", "target": 0, "steps": "0-1"}
    edit = {**seen, "control": at(CONTROL), "value_embedding": at(LEARN), "words": "", "target": 2}
    views = {
        "inversion": {"class_type": HEAT, "inputs": seen},
        "edit": {"class_type": HEAT, "inputs": edit},
        "sheet": {"class_type": COMPARE, "inputs": {
            "image": at(SCENE), "vae": at(MODEL, 2), "latent": at(SAMPLE), "control": at(CONTROL)}},
    }
    for name in ("inversion", "edit"):
        views[f"masks of {name}"] = {"class_type": "MaskToImage", "inputs": {"mask": [name, 1]}}
        views[f"shown {name}"] = {
            "class_type": "PreviewImage", "inputs": {"images": [f"masks of {name}", 0]}}
    return {**prompt, **views}


@pytest.fixture(scope="module")
def entry(server: Server, graph: Prompt) -> dict[str, Any]:
    return server.wait(server.queue(graph))


@pytest.fixture(scope="module")
def pictures(server: Server, entry: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    return {name: editing.decoded(files) for name, files in server.images(entry).items()}


def with_view(graph: Prompt, name: str, **inputs: Any) -> Prompt:
    return {**graph, name: {**graph[name], "inputs": {**graph[name]["inputs"], **inputs}}}


def large(picture: torch.Tensor) -> torch.Tensor:
    """A picture as a sheet shows it."""
    image = editing.picture(picture).resize((256, 256), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).float() / 255


def test_a_word_looks_at_its_thing_in_the_inversion(
    pictures: dict[str, list[torch.Tensor]]
) -> None:
    trial = trials.DEMO
    source, recoloured = drawing.draw(trial.scene), drawing.draw(trial.edits[0])
    thing = torch.from_numpy(drawing.changed_mask(source, recoloured))
    cat, city = (mask[..., 0] for mask in pictures["shown inversion"])
    assert cat.shape == thing.shape and cat.max() == city.max() == 1
    assert cat[thing].mean() > 2 * cat[~thing].mean()
    assert city[thing].mean() < city[~thing].mean()


def test_an_edit_has_a_mask_and_a_tile_for_each_of_its_words(
    graph: Prompt, pictures: dict[str, list[torch.Tensor]]
) -> None:
    target = graph[examples.node_of(graph, CONTROL)]["inputs"]["targets"].splitlines()[1]
    count = len(dict.fromkeys(target.split()))
    assert len(pictures["shown edit"]) == count
    (sheet,), (narrow,) = pictures["edit"], pictures["inversion"]
    columns = (sheet.shape[1] - 16) // 272
    assert 1 < columns < count
    assert sheet.shape[0] - narrow.shape[0] == 312 * (-(-count // columns) - 1)
    tile = sheet[78 : 78 + 256, 16 : 16 + 256]
    assert tile.std() > 0.02 and (sheet[:, :16] == 1).all()


def test_the_sheet_shows_source_reconstruction_and_edits(
    graph: Prompt, pictures: dict[str, list[torch.Tensor]]
) -> None:
    painted = pictures[examples.node_of(graph, "SaveImage")]
    source = torch.from_numpy(np.asarray(drawing.draw(trials.DEMO.scene)).copy()).float() / 255
    (sheet,) = pictures["sheet"]
    places = [(52, 16), (52, 288), (364, 16), (364, 288)]
    for (top, left), wanted in zip(places, [source, *painted], strict=True):
        tile = sheet[top : top + 256, left : left + 256]
        assert editing.decibels(tile, large(wanted)) > 45
    assert editing.decibels(large(painted[1]), large(painted[2])) < 30, "the edits must differ"


def test_the_report_is_on_the_node_and_true(
    graph: Prompt, entry: dict[str, Any], pictures: dict[str, list[torch.Tensor]]
) -> None:
    painted = pictures[examples.node_of(graph, "SaveImage")]
    source = torch.from_numpy(np.asarray(drawing.draw(trials.DEMO.scene)).copy()).float() / 255
    (report,) = entry["outputs"]["sheet"]["text"]
    first, _, ceiling = report.partition(", ceiling (VAE alone) ")
    reached = float(first.removeprefix("reconstruction ").removesuffix(" dB"))
    # The host's PNG cuts every value down to its level; half a level up is what was painted.
    assert reached == pytest.approx(editing.decibels(painted[0] + 0.5 / 255, source), abs=0.05)
    assert reached < float(ceiling.removesuffix(" dB")) + 0.5


def test_other_words_run_nothing_again_but_the_view(server: Server, graph: Prompt) -> None:
    first = server.wait(server.queue(graph))
    again = server.wait(server.queue(with_view(graph, "inversion", words="brown", steps="0-0.3")))
    assert set(graph) - cached_nodes(again) == {
        "inversion", "masks of inversion", "shown inversion"}
    assert len(server.images(again)["shown inversion"]) == 1
    invert = examples.node_of(graph, INVERT)
    assert first["outputs"][invert] == again["outputs"][invert], "a page opened anew has no heat"


def batched(graph: Prompt) -> Prompt:
    scene = [examples.node_of(graph, SCENE), 0]
    twice = {"class_type": "RepeatImageBatch", "inputs": {"image": scene, "amount": 2}}
    return {**with_view(graph, "sheet", image=["twice", 0]), "twice": twice}


def other_edits(graph: Prompt) -> Prompt:
    found = changed(graph, CONTROL, targets="a painting of an orange cat in the city",
                    blend_words="cat")
    found = {name: node for name, node in found.items() if not name.endswith("edit")}
    control = graph[examples.node_of(graph, CONTROL)]
    return {**with_view(found, "sheet", control=["second", 0]), "second": control}


def unknown_word(graph: Prompt) -> Prompt:
    return with_view(graph, "inversion", words="cat, dog")


@pytest.mark.parametrize(("spoil", "message"), [
    (batched, "the image holds 2 pictures, but one is needed.*ImageFromBatch"),
    (other_edits, "targets in the control is 2, but the number of edits .* is 1; connect"),
    (unknown_word, "'dog', written in words, is not a word of 'a painting of a brown cat"),
])
def test_what_does_not_belong_together_is_an_error_with_the_remedy(
    server: Server, graph: Prompt, spoil: Any, message: str
) -> None:
    with pytest.raises(ExecutionError, match=message):
        server.wait(server.queue(spoil(graph)))


def test_a_target_below_the_source_is_refused_before_anything_runs(
    server: Server, graph: Prompt
) -> None:
    with pytest.raises(PromptRejected, match="target"):
        server.queue(with_view(graph, "edit", target=-1))
