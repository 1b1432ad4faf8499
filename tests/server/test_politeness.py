"""A MODEL that went through our nodes samples like one that did not."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from development import examples
from development.examples import Prompt
from development.server import Server
from tests.graphs import CONTROL, cached_nodes, short


def ksampler(model: str, prefix: str) -> Prompt:
    """The host's KSampler on the demo model."""

    def encode(text: str) -> dict[str, Any]:
        return {"class_type": "CLIPTextEncode", "inputs": {"clip": [model, 1], "text": text}}

    return {
        model: {"class_type": "StyleDiffusionLoadDemoModel", "inputs": {}},
        "words": encode("a painting of a red car in the snow"),
        "nothing": encode(""),
        "empty": {"class_type": "EmptyLatentImage",
                  "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "ksampler": {"class_type": "KSampler", "inputs": {
            "model": [model, 0], "positive": ["words", 0], "negative": ["nothing", 0],
            "latent_image": ["empty", 0], "seed": 1, "steps": 6, "cfg": 5.0,
            "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "save": {"class_type": "SaveLatent", "inputs": {
            "samples": ["ksampler", 0], "filename_prefix": f"polite/{prefix}"}},
    }


def sample(server: Server, model: str, prefix: str) -> torch.Tensor:
    """Run the KSampler anew and read the latent it saved."""
    entry = server.wait(server.queue(ksampler(model, prefix)))
    assert "ksampler" not in cached_nodes(entry), "a cached latent proves nothing"
    folder = Path(server.base) / "output" / "polite"
    newest = max(folder.glob(f"{prefix}_*.latent"), key=lambda path: path.stat().st_mtime_ns)
    return load_file(newest)["latent_tensor"]


def test_the_hosts_ksampler_is_the_same_bit_for_bit_before_between_and_after(
    server: Server,
) -> None:
    graph = short(examples.prompt("Demo"))
    model = examples.node_of(graph, "StyleDiffusionLoadDemoModel")
    before = sample(server, model, "before")
    server.wait(server.queue(graph))
    between = sample(server, model, "between")
    control = graph[examples.node_of(graph, CONTROL)]["inputs"]
    control.update(
        targets="a painting of a very pink cat in the city", blend_words="cat", tau_u=0.5)
    ran = server.wait(server.queue(graph))
    after = sample(server, model, "after")
    assert model in cached_nodes(ran), "the same MODEL object must have gone through"
    assert torch.equal(before, between)
    assert torch.equal(before, after)
