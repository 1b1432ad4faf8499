"""A picture made from a seed, kept as a trajectory: text-to-image edits, with nothing to learn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...method.data import Trajectory
from ...method.schedule import make_levels
from .. import text_encoder
from ..attention import LayerFinder
from ..inputs import MODEL_OVERFLOW, require_text
from ..latent_units import host_to_vp, k_to_vp, vp_to_host, vp_to_k
from ..model import ModelPatcher, fingerprint, require_own_prompts, training_alphas
from .inversion import finding, require_unet


@dataclass(frozen=True)
class PictureSettings:
    """What is painted: prompts, size in pixels, steps, guidance and the seed of the noise."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int


def generate(
    model: ModelPatcher, clip: Any, settings: PictureSettings
) -> tuple[Trajectory, dict[str, Any]]:
    """(the way a picture is painted, clean end first as in an inversion, and its LATENT).

    Raises ValueError for an empty prompt or a model that is not a UNet of epsilon or v prediction,
    and FloatingPointError, naming the step, when a latent is no longer finite.
    """
    require_unet(model)
    require_text(settings.prompt, "prompt")
    require_text(settings.negative_prompt, "negative_prompt")
    if not settings.prompt.strip():
        raise ValueError(
            "the prompt is empty; describe the picture to paint, since its words are what can be "
            "edited"
        )
    levels = make_levels(settings.steps, training_alphas(model))
    form = model.get_model_object("latent_format")
    cell = form.spacial_downscale_ratio
    empty = torch.zeros(1, form.latent_channels, settings.height // cell, settings.width // cell)
    noise = comfy.sample.prepare_noise(empty, settings.seed)
    positive, negative = (
        text_encoder.encode(clip, prompt) for prompt in (settings.prompt, settings.negative_prompt))
    require_own_prompts(model, positive, negative)
    guider, finder = comfy.samplers.CFGGuider(model), LayerFinder()
    guider.model_options = with_layers_found(guider.model_options, finder, settings.steps)
    guider.set_conds(positive, negative)
    guider.set_cfg(settings.guidance)
    identity = fingerprint(model)
    path, samples = painted(guider, noise, levels.sampling_sigmas())
    trajectory = Trajectory(
        path, levels, settings.prompt, settings.negative_prompt, positive, negative,
        tuple(finder.layers.values()), identity)
    return trajectory, {"samples": samples}


def with_layers_found(
    model_options: dict[str, Any], finder: LayerFinder, steps: int
) -> dict[str, Any]:
    """A copy of model options whose first and last step are seen by a finder, in which other nodes
    may shrink some layers, or answer themselves; the steps between are as they were."""
    calls = itertools.count(1)

    def seen(
        executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None
    ) -> Tensor:
        if next(calls) in (1, steps):
            model_options = finding(model_options, finder)
        noise: Tensor = executor(x, timestep, model_options, seed)
        return noise

    options = comfy.model_patcher.create_model_options_clone(model_options)
    add_wrapper_with_key(
        WrappersMP.PREDICT_NOISE, "stylediffusion", seen, options, is_model_options=True)
    return options


def painted(
    guider: comfy.samplers.CFGGuider, noise: Tensor, sigmas: Tensor
) -> tuple[Tensor, Tensor]:
    """(VP latents [N + 1, C, h, w], clean end first, and the last one in host units), by Euler."""
    model = guider.model_patcher
    preview = latent_preview.prepare_callback(model, len(sigmas) - 1)
    path: list[Tensor] = []

    def callback(step: int, x0: Tensor, latent_k: Tensor, total: int) -> None:
        path.append(k_to_vp(latent_k, float(sigmas[step])).to("cpu", torch.float32))
        _require_finite(path[-1], step, total)
        preview(step, x0, latent_k, total)

    start_host = vp_to_host(model, vp_to_k(noise, float(sigmas[0])))
    torch.manual_seed(0)  # nodes that draw, as token merging's, draw the same in Sample
    last_host = guider.sample(
        torch.zeros_like(start_host), start_host, comfy.samplers.sampler_object("euler"), sigmas,
        callback=callback, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=0)
    samples = k_to_vp(last_host, float(sigmas[-1])).to("cpu", torch.float32)
    _require_finite(samples, len(sigmas) - 1, len(sigmas) - 1)
    path.append(host_to_vp(model, samples))
    return torch.cat(path[::-1]), samples


def _require_finite(latent: Tensor, step: int, steps: int) -> None:
    if not torch.isfinite(latent).all():
        raise FloatingPointError(
            f"the picture is not finite (NaN or inf) after step {step} of {steps}: "
            f"{MODEL_OVERFLOW}, or take away the node that changes the MODEL, and generate again"
        )
