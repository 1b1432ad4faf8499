"""The most that lives at once in one inner step of learning, at full size, without computing it.

    python -m bench.live [--only sd15|sdxl]

The host's UNet runs on fake tensors, which have shapes and no content, and the birth and the end of
every storage is noted. What a kernel uses inside and what an allocator leaves unused is not seen.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import comfy.supported_models
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from reference.live import Live
from stylediffusion.host.attention import LayerFinder, with_patch
from stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion.host.learn.unet import HostLearningModel
from stylediffusion.method.layers import supervising_layers
from stylediffusion.method.learning import attention_loss
from stylediffusion.method.schedule import Levels, make_levels

GIB, LEVEL = 2**30, 30
CPU = torch.device("cpu")
SHAPES = {
    "sd15": ("SD1.5, 512x512", comfy.supported_models.SD15, subjects.SD15_CONFIG, 768, 64),
    "sdxl": ("SDXL, 1024x1024", comfy.supported_models.SDXL, subjects.SDXL_CONFIG, 2048, 128),
}


def guider_of(kind: Any, config: dict[str, Any], width: int, side: int) -> tuple[Any, Tensor]:
    """What a guider has ready, of a UNet in fp16, and a latent [1, 4, side, side]."""
    made = kind({**config, "context_dim": width})
    made.set_inference_dtype(torch.float16, None)
    model = made.get_model({})
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)
    model.current_patcher = patcher
    pooled = {"pooled_output": torch.zeros(1, 1280)} if kind is comfy.supported_models.SDXL else {}
    latent = torch.zeros(1, 4, side, side)
    prompts = {name: comfy.sampler_helpers.convert_cond([[torch.zeros(1, 77, width), pooled]])
               for name in ("positive", "negative")}
    conds = comfy.samplers.process_conds(model, latent, prompts, CPU, latent)
    return SimpleNamespace(inner_model=model, model_patcher=patcher, conds=conds), latent


def learning_model(guider: Any, latent: Tensor, levels: Levels) -> HostLearningModel:
    """The model as learning calls it."""
    finder, sigma = LayerFinder(), levels.sigmas[-1:].float()
    with torch.no_grad():
        comfy.samplers.calc_cond_batch(
            guider.inner_model, [guider.conds["positive"], None], latent, sigma,
            with_patch({}, "attn2_patch", finder.patch))
    layers = supervising_layers(tuple(finder.layers.values()), *latent.shape[-2:])
    with unset_fake_temporarily():  # the levels are numbers
        return HostLearningModel(guider, {}, levels, levels.sigmas.float(), layers)


def peak(model: HostLearningModel, latent: Tensor, width: int, attends: bool) -> int:
    """Bytes beside the weights that live at once in an evaluation and its backward pass."""
    scale, shift = torch.ones(2, 77, width).unbind()
    leaves = [table.clone().requires_grad_() for table in (scale, shift)]
    with Live() as seen:
        wanted: list[Tensor] = []
        if attends:
            with torch.no_grad():
                wanted = model.maps(latent, LEVEL - 1)
        noise, maps = model.noise_with(latent, LEVEL, leaves[0], leaves[1], attends)
        loss = noise.square().mean()
        if attends:
            loss = loss + attention_loss(maps, wanted)
        del noise, maps
        torch.autograd.grad(loss, leaves)
    return seen.peak


def count(shape: str) -> None:
    """Print the rows of one model."""
    name, kind, config, width, side = SHAPES[shape]
    alphas = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
    levels = make_levels(LEVEL, alphas)
    with FakeTensorMode(allow_non_fake_inputs=True):
        guider, latent = guider_of(kind, config, width, side)
        weights = guider.model_patcher.model_size()
        model = learning_model(guider, latent, levels)
        for attends in (False, True):
            cells = []
            for model.checkpoints in Checkpoints:
                cells.append((weights + peak(model, latent, width, attends)) / GIB)
            what = f"{name}, attention loss" if attends else name
            print(f"| {what} | {weights / GIB:.2f} | "
                  + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench live", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SHAPES, help="one model")
    chosen = parser.parse_args(subjects.own_arguments)
    print("GiB in fp16, with the weights")
    print("| | weights | nothing twice | ResBlocks twice | all blocks twice |")
    print("|---|---|---|---|---|")
    for shape in SHAPES if chosen.only is None else (chosen.only,):
        count(shape)


if __name__ == "__main__":
    main()
