"""A ControlNet on the recorded UNet, and inversion, edits and learning under it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import torch
from stylediffusion_pack.nodes.invert import DDIMInvert
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.method import alignment, data, prompt_to_prompt

from tests import checkpoints, golden
from tests.learning_requests import request

STEPS, GUIDANCE = 2, 7.5
SOURCE, FIRST, SECOND = "a cat", "a dog", "a boat"
NEVER, HALF = prompt_to_prompt.Window(0.0, 0.0), prompt_to_prompt.Window(0.0, 0.5)
CPU = torch.device("cpu")
CONFIG = {k: v for k, v in golden.UNET_CONFIG.items() if k != "out_channels"} | {
    "num_heads": 8, "hint_channels": 3, "dtype": torch.float32}
LATENT = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(31))


class Words:
    """A text encoder that gives each prompt random vectors of its own."""

    def tokenize(self, prompt: str, return_word_ids: bool = False) -> Any:
        """The prompt, which is then encoded, or its 77 tokens: one for each word."""
        words = [(i, 1.0, i) for i, _ in enumerate(prompt.split(), 1)]
        padding = [(0, 1.0, 0)] * (76 - len(words))
        return {"l": [[(0, 1.0, 0), *words, *padding]]} if return_word_ids else prompt

    def encode_from_tokens_scheduled(self, prompt: str) -> data.Conditioning:
        drawn = torch.Generator().manual_seed(sum(map(ord, prompt)))
        return [(torch.randn(1, 77, 64, generator=drawn), {})]


def network() -> torch.nn.Module:
    """A ControlNet of the recorded UNet's shape; none of its last layers is zero."""
    made = comfy.cldm.cldm.ControlNet(**CONFIG)
    made.load_state_dict({k: v.float() for k, v in checkpoints.randomized(made).items()})
    return made


def plain_control_net() -> Any:
    with torch.inference_mode():
        return comfy.controlnet.ControlNet(network(), load_device=CPU)


def control_lora() -> Any:
    with torch.inference_mode():
        weights = network().state_dict()
        return comfy.controlnet.ControlLora({**weights, "lora_controlnet": torch.zeros(1)})


KINDS = {"ControlNet": plain_control_net, "ControlLora": control_lora}


def hint(seed: int = 41, count: int = 1) -> torch.Tensor:
    """Black and white blocks, of another size than the picture, as a node receives them."""
    with torch.inference_mode():
        drawn = torch.rand(count, 8, 12, 3, generator=torch.Generator().manual_seed(seed))
        return (drawn > 0.5).float().repeat_interleave(9, 1).repeat_interleave(9, 2)


def inverted(model: Any, *controlled: Any) -> data.Trajectory:
    """What DDIM Invert gives with control_net, control_image and control_strength, or without."""
    with torch.inference_mode():
        samples = vp_to_host(model, LATENT)
        names = ("control_net", "control_image", "control_strength")
        found = DDIMInvert.execute(model, Words(), {"samples": samples}, SOURCE, STEPS,
                                   **dict(zip(names, controlled, strict=False)))
        return found.result[0]


def released(trajectory: data.Trajectory) -> data.Trajectory:
    """The same way, without the ControlNet."""
    return data.Trajectory(
        *(getattr(trajectory, field.name) for field in fields(data.Trajectory)))


def edits(window: prompt_to_prompt.Window, *prompts: str) -> prompt_to_prompt.Control:
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    made = tuple(
        prompt_to_prompt.Target(
            prompt, "replace", Words().encode_from_tokens_scheduled(prompt), same
        )
        for prompt in prompts
    )
    return prompt_to_prompt.Control(SOURCE, made, window, window, window, window)


def sample(model: Any, trajectory: Any, edit: Any, guidance: float = GUIDANCE) -> torch.Tensor:
    with torch.inference_mode():
        return sampling.sample_edits(Edit(model, trajectory, None, edit, guidance))["samples"]


def learn(
    model: Any, trajectory: Any, fast: bool = True, evaluations: int = 3
) -> data.ValueEmbedding:
    chosen = request(
        fast, inner_steps=3, first_evaluations=evaluations, closing_evaluations=evaluations,
        last_evaluations=evaluations)
    with torch.inference_mode():
        return host_learning.learn_value_embedding(
            model, trajectory, None, None, chosen)
