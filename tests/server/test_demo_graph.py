"""The shipped graph in the real ComfyUI: its pictures, the host's cache, interrupting, errors."""

from typing import Any

import pytest

from development import examples
from development.examples import Prompt
from development.server import (
    ExecutionError,
    ExecutionInterrupted,
    PromptRejected,
    Server,
)
from tests.graphs import CONTROL, INVERT, LEARN, SAMPLE, cached_nodes, changed, short
from training import editing, trials


@pytest.fixture(scope="module")
def shipped(server: Server) -> Prompt:
    return examples.prompt("Demo")


@pytest.fixture(scope="module")
def pictures(server: Server) -> editing.Pictures:
    """The whole demo, at full length."""
    return editing.run(server, trials.DEMO)


@pytest.fixture(scope="module")
def numbers(pictures: editing.Pictures) -> dict[str, Any]:
    return editing.measure(pictures)


def test_the_shipped_graph_is_the_trial_chosen_before_training(shipped: Prompt) -> None:
    assert editing.for_trial(shipped, trials.DEMO) == shipped
    scene = examples.node_of(shipped, "StyleDiffusionDemoScene")
    assert shipped[examples.node_of(shipped, INVERT)]["inputs"]["prompt"] == [scene, 1]


def test_the_reconstruction_is_as_good_as_the_vae_allows(numbers: dict[str, Any]) -> None:
    assert numbers["vae_psnr"] >= 34
    assert numbers["reconstruction_psnr"] >= numbers["vae_psnr"] - 0.3
    assert numbers["ddim_reconstruction_psnr"] < numbers["reconstruction_psnr"] - 3


@pytest.mark.parametrize("place, kind", [(0, "colour"), (1, "object")])
def test_an_edit_is_what_was_asked_for_and_comes_nearer_the_true_edit(
    numbers: dict[str, Any], place: int, kind: str
) -> None:
    edit = numbers["edits"][place]
    assert edit["psnr_inside"] > edit["source_psnr_inside"] + 5
    assert edit["judged"] == edit["true_judged"]
    assert edit["judged"][kind] != numbers["edits"][1 - place]["judged"][kind]


def test_a_colour_comes_nearer_and_keeps_more_than_plain_ddim(numbers: dict[str, Any]) -> None:
    edit = numbers["edits"][0]
    assert edit["psnr_inside"] > edit["ddim_psnr_inside"]
    assert edit["psnr_outside"] > edit["ddim_psnr_outside"] + 3


@pytest.mark.parametrize("place, apart", [(0, 2), (1, 4)])  # a new object has an outline of its own
def test_outside_an_edit_is_within_a_few_decibels_of_the_vae_round_trip(
    numbers: dict[str, Any], place: int, apart: float
) -> None:
    assert numbers["edits"][place]["psnr_outside"] >= numbers["vae_psnr"] - apart


def test_laid_into_the_source_an_edit_keeps_more_of_it(numbers: dict[str, Any]) -> None:
    for edit in numbers["edits"]:
        assert edit["laid_in_psnr_outside"] > edit["psnr_outside"]


def test_a_second_run_comes_from_the_hosts_cache(server: Server, shipped: Prompt) -> None:
    short_graph = short(shipped)
    server.wait(server.queue(short_graph))
    again = server.wait(server.queue(short_graph))
    assert cached_nodes(again) == set(short_graph)


def test_another_target_repeats_neither_inversion_nor_learning(
    server: Server, shipped: Prompt
) -> None:
    first = short(shipped)
    server.wait(server.queue(first))
    second = changed(first, CONTROL, targets="a painting of a pink cat in the city",
                     blend_words="cat")
    entry = server.wait(server.queue(second))
    kept = cached_nodes(entry)
    assert {examples.node_of(first, kind) for kind in (INVERT, LEARN)} <= kept
    assert examples.node_of(first, SAMPLE) not in kept
    assert len(server.images(entry)[examples.node_of(first, "SaveImage")]) == 2


def test_an_error_downstream_loses_nothing_that_was_learnt(
    server: Server, shipped: Prompt
) -> None:
    server.wait(server.queue(short(shipped)))
    wrong = changed(short(shipped), CONTROL, mode="replace", blend_words="cat",
                    targets="a painting of a big orange cat in the city")
    with pytest.raises(ExecutionError, match="has 9 words and .* has 10; use Refine"):
        server.wait(server.queue(wrong))
    right = changed(wrong, CONTROL, mode="auto")
    kept = cached_nodes(server.wait(server.queue(right)))
    assert {examples.node_of(right, kind) for kind in (INVERT, LEARN)} <= kept


def test_learning_is_interrupted_on_its_way_and_the_host_goes_on(
    server: Server, shipped: Prompt
) -> None:
    long = changed(shipped, LEARN, seed=6)
    learning = examples.node_of(long, LEARN)
    seen: list[tuple[float, float]] = []

    def progress(node_id: str, value: float, maximum: float) -> None:
        if node_id == learning and value > 3:
            if not seen:
                server.interrupt()
            seen.append((value, maximum))

    with pytest.raises(ExecutionInterrupted, match=LEARN):
        server.wait(server.queue(long), progress)
    assert all(value < maximum for value, maximum in seen), "learning went on to its end"
    kept = cached_nodes(server.wait(server.queue(short(shipped))))
    assert examples.node_of(long, LEARN) not in kept


@pytest.mark.parametrize("steps", [0, 501])
def test_steps_outside_the_range_are_refused_before_anything_runs(
    server: Server, shipped: Prompt, steps: int
) -> None:
    with pytest.raises(PromptRejected, match="steps"):
        server.queue(changed(shipped, INVERT, steps=steps))


def batched(prompt: Prompt) -> Prompt:
    return inserted(prompt, {"class_type": "RepeatLatentBatch", "inputs": {"amount": 2}})


def masked(prompt: Prompt) -> Prompt:
    mask = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    found = inserted(prompt, {"class_type": "SetLatentNoiseMask", "inputs": {"mask": ["mask", 0]}})
    return {**found, "mask": mask}


def inserted(prompt: Prompt, node: dict[str, Any]) -> Prompt:
    """The graph with a latent node between VAE Encode and DDIM Invert."""
    node["inputs"]["samples"] = [examples.node_of(prompt, "VAEEncode"), 0]
    return {**changed(prompt, INVERT, latent=["between", 0]), "between": node}


def empty(prompt: Prompt) -> Prompt:
    return changed(prompt, INVERT, prompt="  ")


@pytest.mark.parametrize("spoil, message", [
    (batched, "holds 2 images.*Latent From Batch"),
    (masked, "noise mask.*VAE Encode"),
    (empty, "prompt is empty; describe the picture"),
])
def test_input_that_cannot_be_inverted_is_an_error_with_the_remedy(
    server: Server, shipped: Prompt, spoil: Any, message: str
) -> None:
    with pytest.raises(ExecutionError, match=message):
        server.wait(server.queue(spoil(short(shipped))))
