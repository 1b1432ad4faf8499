"""What is measured: the demo model, and a model of Stable Diffusion 1.5's shape at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from training import host_path  # isort: skip  (before anything that imports comfy)

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import numpy as np
import torch
from torch import Tensor

from demo import drawing, loading, scenes
from stylediffusion.host.attention import LayerFinder, with_patch
from stylediffusion.host.model import ModelPatcher
from stylediffusion.method.data import Conditioning
from stylediffusion.method.layers import AttentionLayer
from training import trials

own_arguments = host_path.own_arguments
SD15_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False,
    "context_dim": 768, "adm_in_channels": None, "use_linear_in_transformer": False,
}
SDXL_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
    "use_spatial_transformer": True, "legacy": False, "context_dim": 2048, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_linear_in_transformer": True, "num_head_channels": 64,
}
VIT_B16_CONFIG = {
    "model_type": "clip_vision_model", "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3, "image_size": 224,
    "patch_size": 16, "hidden_act": "quick_gelu", "projection_dim": 512,
}
Work = Callable[[Any, dict[str, Any], Tensor], None]


@dataclass(frozen=True)
class Subject:
    """A model with gradients possible, prompts, a latent (VP), a vision tower and its picture.

    All but the model's weights, which the host moves by itself, are on the host's device.
    """

    name: str
    model: ModelPatcher
    positive: Conditioning
    negative: Conditioning
    latent: Tensor
    tower: Any
    pixels: Tensor


def device_name() -> str:
    """Where the host works, as it calls it."""
    device = comfy.model_management.get_torch_device()
    return str(comfy.model_management.get_torch_device_name(device))


@torch.no_grad()
def load(name: str, side: int = 64) -> Subject:
    """`demo` or `sd15`; `side` is the latent's, for sd15 only."""
    return _demo() if name == "demo" else _sd15(side)


def _demo() -> Subject:
    clip, vae, scene = loading.load_clip(), loading.load_vae(), trials.DEMO.scene
    tower = loading.load_vision()
    picture = torch.from_numpy(np.asarray(drawing.draw(scene), dtype=np.float32) / 255)[None]
    latent = vae.encode(picture) * loading.parts.LATENT_SCALE
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text))
                          for text in (scenes.caption(scene), ""))
    return on_device(
        Subject("demo", loading.load_model(disable_dynamic=True), positive, negative, latent,
                tower.model.float().requires_grad_(False), picture.movedim(-1, 1)))


def _sd15(side: int) -> Subject:
    config = comfy.supported_models.SD15(dict(SD15_CONFIG))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    tower = comfy.clip_vision.ClipVisionModel(dict(VIT_B16_CONFIG)).model
    generator = torch.Generator().manual_seed(random.Random("bench").randrange(2**31))
    for module in (model.diffusion_model, tower):
        initialise(module.float(), generator)
    tower.requires_grad_(False)
    management = comfy.model_management
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=management.get_torch_device(), offload_device=torch.device("cpu"))
    prompts: list[Conditioning] = [
        [(torch.randn(1, 77, 768, generator=generator), {})] for _ in range(2)]
    latent = torch.randn(1, 4, side, side, generator=generator)
    pixels = torch.randn(1, 3, 224, 224, generator=generator)
    return on_device(Subject("sd15", patcher, prompts[0], prompts[1], latent, tower, pixels))


def narrow(shape: str, side: int = 16) -> Subject:
    """SD1.5's or SDXL's block structure at a tenth of the width: as many operations, less work."""
    if shape == "sdxl":
        narrower = {**SDXL_CONFIG, "model_channels": 32, "num_head_channels": 16}
        config = comfy.supported_models.SDXL({**narrower, "context_dim": 64})
    else:
        config = comfy.supported_models.SD15(
            {**SD15_CONFIG, "model_channels": 32, "context_dim": 64})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    generator = torch.Generator().manual_seed(1)
    initialise(model.diffusion_model, generator)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(),
        offload_device=torch.device("cpu"))
    extra = {"pooled_output": torch.zeros(1, 1280)} if shape == "sdxl" else {}
    prompts: list[Conditioning] = [
        [(torch.randn(1, 77, 64, generator=generator), dict(extra))] for _ in range(2)]
    latent = torch.randn(1, 4, side, side, generator=generator)
    return Subject(shape, patcher, prompts[0], prompts[1], latent, None, torch.empty(0))


def on_device(subject: Subject) -> Subject:
    """The same subject where the host works."""
    device = subject.model.load_device
    positive, negative = ([(tensor.to(device), extra) for tensor, extra in prompt]
                          for prompt in (subject.positive, subject.negative))
    return replace(
        subject, positive=positive, negative=negative, latent=subject.latent.to(device),
        tower=subject.tower.to(device), pixels=subject.pixels.to(device))


@torch.no_grad()
def initialise(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights of the size that training starts from: the host's layers come uninitialised."""
    for name, weight in module.named_parameters():
        if weight.ndim == 1 and "embedding" not in name:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            bound = (3.0 / max(1, weight[0].numel())) ** 0.5
            weight.uniform_(-bound, bound, generator=generator)


class _Stage(comfy.samplers.Sampler):
    def __init__(self, work: Work) -> None:
        self.work = work

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any,
        **options: Any,
    ) -> Tensor:
        self.work(model_wrap, extra_args["model_options"], sigmas)
        return torch.zeros_like(rest[2])


def on_stage(
    subject: Subject, sigmas: Tensor, work: Work, positive: Conditioning | None = None
) -> None:
    """Run work(guider's model, model options, sigmas) where the host would sample.

    The batch has a row for each row of `positive`, which is the subject's own where not given.
    """
    positive = positive or subject.positive
    guider = comfy.samplers.CFGGuider(subject.model)
    guider.set_conds(positive, subject.negative)
    guider.set_cfg(7.5)
    start = torch.zeros_like(subject.latent).repeat(len(positive[0][0]), 1, 1, 1)
    guider.sample(start, start, _Stage(work), sigmas, disable_pbar=True)


def layers_of(model: Any, options: dict[str, Any], sigma: Tensor, latent: Tensor
              ) -> tuple[AttentionLayer, ...]:
    """All cross-attention layers, from one forward pass."""
    finder = LayerFinder()
    with torch.no_grad():
        comfy.samplers.calc_cond_batch(
            model.inner_model, [model.conds["positive"], None], latent, sigma.expand(1),
            with_patch(options, "attn2_patch", finder.patch))
    return tuple(finder.layers.values())
