"""Every combination of mode, blend, number of targets and shape runs in the real ComfyUI."""

import itertools

import pytest

from demo import scenes
from development import examples
from development.examples import Prompt
from development.server import Server
from tests.graphs import CONTROL, changed, short
from training import editing, trials

SHAPES = {"square": (128, 128), "3:2": (192, 128), "1:2": (128, 256)}
REPLACE = ["a painting of an orange cat in the city", "a painting of a brown boat in the city",
           "a painting of a brown cat in the snow", "a sketch of a brown cat in the city"]
REFINE = ["a painting of a big brown cat in the city", "a painting of a cat in the city",
          "a painting of a brown cat and a red ball in the city", "a brown cat in the city"]


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    return short(examples.prompt("Demo"))


def shaped(prompt: Prompt, shape: str) -> Prompt:
    width, height = SHAPES[shape]
    scale = {"class_type": "ImageScale", "inputs": {
        "image": [examples.node_of(prompt, "StyleDiffusionDemoScene"), 0],
        "upscale_method": "bilinear", "width": width, "height": height, "crop": "disabled"}}
    return {**changed(prompt, "VAEEncode", pixels=["scale", 0]), "scale": scale}


@pytest.mark.parametrize(("shape", "mode", "blends", "count"), list(itertools.product(
    SHAPES, ["replace", "refine"], ["", "cat"], [1, 4])))
def test_it_runs_and_the_reconstruction_is_left_alone(
    server: Server, graph: Prompt, shape: str, mode: str, blends: str, count: int
) -> None:
    targets = (REPLACE if mode == "replace" else REFINE)[:count]
    wanted = changed(shaped(graph, shape), CONTROL, targets="\n".join(targets), mode=mode,
                     blend_words=blends)
    entry = server.wait(server.queue(wanted))
    painted = editing.decoded(server.images(entry)[examples.node_of(wanted, "SaveImage")])
    width, height = SHAPES[shape]
    assert [tuple(p.shape) for p in painted] == [(height, width, 3)] * (1 + count)
    for edit in painted[1:]:
        assert not edit.equal(painted[0])


def test_an_edit_of_no_word_is_the_reconstruction(server: Server, graph: Prompt) -> None:
    """The source prompt as its own target: with all maps held, row 1 is row 0."""
    source = scenes.caption(trials.DEMO.scene)
    held = changed(graph, CONTROL, targets=source, blend_words="", tau_v=1.0, tau_c=1.0,
                   tau_s=1.0, tau_u=1.0)
    entry = server.wait(server.queue(held))
    painted = editing.decoded(server.images(entry)[examples.node_of(held, "SaveImage")])
    assert (painted[1] - painted[0]).abs().max() <= 1 / 255
