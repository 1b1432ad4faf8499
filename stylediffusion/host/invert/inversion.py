"""DDIM inversion through the host's own sampling road: loading, conditioning, patches, cleaning."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import latent_preview
import torch
from comfy.controlnet import ControlBase
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ...method.data import Conditioning, Trajectory
from ...method.ddim import Refine, invert
from ...method.layers import AttentionLayer, supervising_layers
from ...method.schedule import Levels, make_levels
from .. import text_encoder
from ..attention import LayerFinder, occupied, uncompiled, with_patch, with_replacements
from ..caching import Asked, may_cache
from ..control_nets import ControlledTrajectory, identity, under
from ..heat import PromptHeat
from ..inputs import VAE_OVERFLOW, require_given, require_text, samples_of
from ..latent_units import vp_to_k
from ..model import ModelPatcher, fingerprint, require_own_prompts, training_alphas
from ..stage import Stage, on_stage
from .word_heat import WordHeat, word_columns


@dataclass(frozen=True)
class Inversion:
    """A whole VP trajectory fp32 [N + 1, C, h, w], clean end first, and the UNet's layers.

    `heat` [words, h, w] is where words look half-way, if that was asked for and could be seen.
    """

    latents: Tensor
    layers: tuple[AttentionLayer, ...]
    heat: Tensor | None = None


def finding(model_options: dict[str, Any], finder: LayerFinder) -> dict[str, Any]:
    """A copy of model options under which a finder sees every layer, even of a compiled model."""
    return with_patch(uncompiled(model_options), "attn2_patch", finder.patch)


def watching(
    model_options: dict[str, Any], layers: Iterable[AttentionLayer], latent_vp: Tensor,
    heat: PromptHeat,
) -> dict[str, Any]:
    """A copy of model options under which words are watched in the supervising layers.

    Where another node has replaced a layer, what it does stays as it is, unseen.
    """
    watched = supervising_layers(tuple(layers), *latent_vp.shape[-2:])
    taken = occupied(model_options, watched)
    free = tuple(layer for layer in watched if layer not in taken)
    return uncompiled(with_replacements(model_options, free, heat.replacement))


def require_unet(model: ModelPatcher | None) -> None:
    """Raise ValueError unless a MODEL is a UNet with cross-attention, as the method's models are.

    Transformers, as PixArt and HunyuanDiT, may predict epsilon or v too, but have no such layers.
    """
    require_given(model, "MODEL", "Load Checkpoint")
    assert model is not None
    unet = model.model.diffusion_model
    unet = getattr(unet, "_orig_mod", unet)  # as torch.compile wraps it
    attends = isinstance(unet, UNetModel) and any(
        isinstance(part, BasicTransformerBlock) and part.attn2 is not None
        for part in unet.modules())
    if not attends:
        raise ValueError(
            f"this MODEL ({type(model.model).__name__}, a {type(unet).__name__}) is no UNet with "
            "cross-attention, whose layers are what StyleDiffusion edits; load a checkpoint of "
            "SD1.x, SD2.x or SDXL, or one finetuned or distilled from those, such as SSD-1B"
        )


def require_one_image(latent: dict[str, Any] | None) -> Tensor:
    """The samples [1, C, h, w] of a LATENT; raises ValueError for batches, masks and video."""
    samples = samples_of(latent, "VAE Encode", VAE_OVERFLOW)
    if len(samples) > 1:
        raise ValueError(
            f"the latent holds {len(samples)} images, but one image is inverted at a time; pick "
            "one with Latent From Batch"
        )
    if latent is not None and latent.get("noise_mask") is not None:
        raise ValueError(
            "the latent has a noise mask, which an inversion cannot follow; encode the picture "
            "with VAE Encode instead of an inpainting encoder, or remove Set Latent Noise Mask"
        )
    return samples


def require_own_latent(model: ModelPatcher, samples: Tensor) -> None:
    """Raise ValueError unless samples [1, C, h, w] have the channels of the model's latents."""
    channels = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != channels:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels, but the MODEL "
            f"({type(model.model).__name__}) works on {channels}; encode the picture with the VAE "
            "of the same checkpoint"
        )


def invert_latent(
    model: ModelPatcher, clip: Any, latent: dict[str, Any] | None, prompt: str,
    negative_prompt: str, steps: int, control_net: ControlBase | None = None,
    refine: Refine | None = None,
) -> Trajectory:
    """DDIM inversion of one LATENT under the source prompt, and a ControlNet, at guidance 1.

    `refine` makes each step more exact (`fixed_point.py: refinement`). Raises ValueError for a
    model or a latent that cannot be inverted, and for an empty prompt.
    """
    return invert_and_watch(
        model, clip, latent, prompt, negative_prompt, steps, control_net, refine)[0]


def invert_and_watch(
    model: ModelPatcher, clip: Any, latent: dict[str, Any] | None, prompt: str,
    negative_prompt: str, steps: int, control_net: ControlBase | None = None,
    refine: Refine | None = None,
) -> tuple[Trajectory, WordHeat | None]:
    """`invert_latent`, and where each word looked half-way; None where that could not be seen."""
    require_unet(model)
    samples = require_one_image(latent)
    require_own_latent(model, samples)
    require_text(prompt, "prompt")
    require_text(negative_prompt, "negative_prompt")
    if not prompt.strip():
        raise ValueError(
            "the prompt is empty; describe the picture in a few words, since its words are what "
            "can be edited"
        )
    levels = make_levels(steps, training_alphas(model))
    positive, negative = (text_encoder.encode(clip, words) for words in (prompt, negative_prompt))
    require_own_prompts(model, positive, negative)
    controlled = () if control_net is None else (control_net, identity(control_net))
    made_with = fingerprint(model)
    columns = word_columns(text_encoder.tokenize(clip, prompt))
    inversion = run_inversion(
        model, samples, under(control_net, positive), levels, refine, columns)
    parts = (inversion.latents, levels, prompt, negative_prompt, positive, negative,
             inversion.layers, made_with)
    trajectory = (
        ControlledTrajectory(*parts, *controlled) if controlled else Trajectory(*parts))
    heat = inversion.heat
    return trajectory, None if heat is None else WordHeat(prompt, heat)


def run_inversion(
    model: ModelPatcher, samples: Tensor, positive: Conditioning, levels: Levels,
    refine: Refine | None = None, columns: Tensor | None = None,
) -> Inversion:
    """Walk the samples [1, C, h, w] of a LATENT upward on the host's stage, at guidance 1.

    The heat of `columns` [T, words] is seen on the way.
    """
    heat = None if columns is None else PromptHeat(
        columns, range(levels.steps), 0, None, levels.steps, model.load_device)
    inversions: list[Inversion] = []
    on_stage(
        model, positive, positive, levels.sigmas.to(torch.float32), samples,
        lambda stage: inversions.append(_inverted(stage, levels, refine, heat)),
        callback=latent_preview.prepare_callback(model, levels.steps))
    return inversions[0]


def _inverted(
    stage: Stage, levels: Levels, refine: Refine | None, heat: PromptHeat | None
) -> Inversion:
    finder, x0, model = LayerFinder(), stage.latent_vp, stage.guider.model_patcher
    counted = Asked(stage.model_options) if may_cache(model) else None
    plain = stage.model_options if counted is None else counted.options
    probing = finding(plain, finder)
    half_way = levels.steps // 2 + 1

    def predict_noise(latent_vp: Tensor, level: int) -> Tensor:
        nonlocal x0
        sigma = float(stage.sigmas[level])
        latent_k = vp_to_k(latent_vp, sigma)
        options = probing if level == 1 else plain
        if heat is not None and level == half_way > 1:  # the first finds the layers
            options = watching(plain, finder.layers.values(), latent_vp, heat)
        with nullcontext() if counted is None else counted.at(model, level, levels.steps):
            x0 = stage.denoised(latent_k, stage.sigmas[level], options)
        return (latent_k - x0) / sigma

    def after_step(k: int, latent_vp: Tensor, noise: Tensor) -> None:
        if stage.callback is not None:
            stage.callback(k, x0, latent_vp, levels.steps)

    latents = invert(predict_noise, stage.latent_vp, levels, after_step, refine)
    seen = None if heat is None or heat.sums is None else heat.sums.cpu()
    return Inversion(latents.to("cpu", torch.float32), tuple(finder.layers.values()), seen)
