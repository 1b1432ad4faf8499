"""Generate and P2Plus Guider in the real ComfyUI: the host's sampler paints the same pictures."""

from typing import Any

import pytest
import torch

from development import examples
from development.examples import Prompt
from development.server import ExecutionError, Server
from tests.graphs import CONTROL, INVERT, SAMPLE, changed, short
from training import editing

GUIDER, GENERATE = "StyleDiffusionP2PlusGuider", "StyleDiffusionGenerate"
MODEL = "StyleDiffusionLoadDemoModel"
PROMPT = "a painting of a red car in the snow"


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    return short(examples.prompt("Demo"))


def natively(prompt: Prompt) -> Prompt:
    """The graph with Sample's inputs on P2Plus Guider, sampled and decoded beside it."""
    sample = prompt[examples.node_of(prompt, SAMPLE)]
    added = {
        "guider": {"class_type": GUIDER, "inputs": sample["inputs"]},
        "native": {"class_type": "SamplerCustomAdvanced", "inputs": {
            name: ["guider", i] for i, name in enumerate(
                ("noise", "guider", "sampler", "sigmas", "latent_image"))}},
        "decoded": {"class_type": "VAEDecode", "inputs": {
            "samples": ["native", 0], "vae": [examples.node_of(prompt, MODEL), 2]}},
        "saved": {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}},
    }
    return {**prompt, **added}


def generated(prompt: Prompt, guidance: float = 5.0) -> Prompt:
    """The graph with a picture from a seed in the place of the inverted one; nothing is learnt."""
    model, painter = (examples.node_of(prompt, kind) for kind in (MODEL, INVERT))
    wishes = {"prompt": PROMPT, "negative_prompt": "", "width": 128, "height": 128, "steps": 20,
              "guidance": guidance, "seed": 3}
    prompt = changed(prompt, SAMPLE, guidance=guidance)
    del prompt[examples.node_of(prompt, SAMPLE)]["inputs"]["value_embedding"]
    del prompt[examples.node_of(prompt, "StyleDiffusionLearnValueEmbedding")]
    prompt[painter] = {"class_type": GENERATE, "inputs": {
        "model": [model, 0], "clip": [model, 1], **wishes}}
    first = {
        "first": {"class_type": "VAEDecode", "inputs": {
            "samples": [painter, 1], "vae": [model, 2]}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["first", 0]}},
    }
    return {**changed(prompt, CONTROL, targets="a painting of a blue car in the snow",
                      blend_words="car"), **first}


def pictures(server: Server, prompt: Prompt) -> dict[str, list[torch.Tensor]]:
    entry = server.wait(server.queue(prompt))
    return {name: editing.decoded(files) for name, files in server.images(entry).items()}


@pytest.mark.parametrize("words", ["", "cat"])
def test_the_hosts_sampler_paints_what_sample_paints(
    server: Server, graph: Prompt, words: str
) -> None:
    found = pictures(server, natively(changed(graph, CONTROL, blend_words=words)))
    ours = found[examples.node_of(graph, "SaveImage")]
    assert len(ours) == len(found["saved"]) == 3
    for one, other in zip(ours, found["saved"], strict=True):
        assert one.equal(other)


def test_another_sampler_node_of_the_host_keeps_the_blend(server: Server, graph: Prompt) -> None:
    """KSamplerSelect's Euler in the place of the one that P2Plus Guider gives."""
    prompt = natively(graph)
    prompt["native"]["inputs"]["sampler"] = ["other", 0]
    found = pictures(server, {**prompt, "other": {
        "class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}})
    ours = found[examples.node_of(graph, "SaveImage")]
    assert len(ours) == len(found["saved"]) == 3
    assert all(one.equal(other) for one, other in zip(ours, found["saved"], strict=True))


def test_a_generated_picture_is_edited_like_a_photo(server: Server, graph: Prompt) -> None:
    found = pictures(server, generated(graph))
    (alone,) = found["shown"]
    source, edit = found[examples.node_of(graph, "SaveImage")]
    assert (source - alone).abs().max() <= 1 / 255
    changed_by = (edit - source).abs().amax(-1) > 0.2
    assert 0.01 < changed_by.float().mean() < 0.4
    border = torch.ones_like(changed_by)
    border[8:-8, 8:-8] = False
    assert not changed_by[border].any(), "the car is in the middle, and the edit is kept to it"


@pytest.mark.parametrize("spoil, message", [
    ({"native": {"noise": ["other", 0]}, "other": {
        "class_type": "RandomNoise", "inputs": {"noise_seed": 1}}}, "noise would be added"),
    ({"native": {"sigmas": ["other", 0]}, "other": {
        "class_type": "KarrasScheduler", "inputs": {
            "steps": 5, "sigma_max": 14.0, "sigma_min": 0.1, "rho": 7.0}}}, "another schedule"),
    ({"native": {"sampler": ["other", 0]}, "other": {
        "class_type": "KSamplerSelect", "inputs": {"sampler_name": "uni_pc"}}},
     "act between the steps.*sample_unipc.*choose another, such as euler"),
])
def test_parts_of_another_road_are_errors_with_the_remedy(
    server: Server, graph: Prompt, spoil: dict[str, Any], message: str
) -> None:
    wrong = natively(graph)
    wrong["native"]["inputs"].update(spoil["native"])
    with pytest.raises(ExecutionError, match=message):
        server.wait(server.queue({**wrong, "other": spoil["other"]}))


def test_nothing_to_paint_is_an_error(server: Server, graph: Prompt) -> None:
    with pytest.raises(ExecutionError, match="prompt is empty; describe the picture to paint"):
        server.wait(server.queue(changed(generated(graph), GENERATE, prompt=" ")))
