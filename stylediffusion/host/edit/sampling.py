"""What the Sample node does: the parts of a run, driven here or by the host's own sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
import torch.nn.functional as F
from torch import Tensor

from ..latent_units import vp_to_host, vp_to_k
from ..model import ModelPatcher
from .guider import P2PlusGuider
from .request import Edit


class NoNoise:
    """The host's NOISE for a latent that is noise already."""

    seed = 0

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """Zeros of the latent's shape."""
        return torch.zeros_like(latent["samples"], device="cpu")


@dataclass(frozen=True)
class SamplingParts:
    """What the host's SamplerCustomAdvanced takes, in the order of its inputs."""

    noise: NoNoise
    guider: P2PlusGuider
    sampler: comfy.samplers.Sampler
    sigmas: Tensor
    latent: dict[str, Any]


def sampling_parts(edit: Edit) -> SamplingParts:
    """All that sampling needs, for the host's sampler or for `sample_edits`."""
    edit.warn_of_other_models()
    sigmas = edit.trajectory.levels.sampling_sigmas()
    start_host = vp_to_host(edit.model, vp_to_k(edit.trajectory.noise, float(sigmas[0])))
    euler = comfy.samplers.sampler_object("euler")  # DDIM, on these sigmas
    return SamplingParts(NoNoise(), P2PlusGuider(edit), euler, sigmas, {"samples": start_host})


def sample_edits(edit: Edit) -> dict[str, Any]:
    """LATENT in host units: row 0 the reconstruction, one more row for each target.

    For nodes that show a picture of their own: the page would keep a preview in its place.
    """
    latent, _ = sample_with_masks(edit, preview=False)
    return latent


def sample_with_masks(edit: Edit, preview: bool = True) -> tuple[dict[str, Any], Tensor]:
    """What `sample_edits` gives, and the last blend mask of each target [targets, H, W]."""
    parts = sampling_parts(edit)
    follow = _preview_of_edits if preview else _progress
    samples = parts.guider.sample(
        parts.noise.generate_noise(parts.latent), parts.latent["samples"], parts.sampler,
        parts.sigmas, callback=follow(edit.model, edit.trajectory.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=parts.noise.seed,
    )
    samples = samples.to(comfy.model_management.intermediate_device())
    require_finite(samples)
    return {"samples": samples}, shown_masks(edit.model, parts.guider, samples)


def _preview_of_edits(model: ModelPatcher, steps: int) -> Callable[..., None]:
    """The host's preview, which shows the first row, of the first edit where there is one."""
    show = latent_preview.prepare_callback(model, steps)
    return lambda step, x0, x, total: show(step, x0[1:] if len(x0) > 1 else x0, x, total)


def _progress(model: ModelPatcher, steps: int) -> Callable[..., None]:
    """A sampler's callback that moves the node's bar and shows no picture."""
    bar = comfy.utils.ProgressBar(steps)
    return lambda step, x0, x, total: bar.update_absolute(step + 1, total)


def require_finite(samples: Tensor) -> None:
    """Raise FloatingPointError where sampling overflowed."""
    if not torch.isfinite(samples).all():
        raise FloatingPointError(
            "sampling gave values that are not finite; run the model in bf16 or fp32 "
            "(--bf16-unet, --fp32-unet)"
        )


def shown_masks(model: ModelPatcher, guider: P2PlusGuider, samples: Tensor) -> Tensor:
    """The masks of a run at the picture's size, fp32 [targets, H, W]: ones where none was used.

    Without targets it is one mask of ones, since the host has no use for none.
    """
    height, width = samples.shape[-2:]
    masks = guider.masks
    if masks is None:
        masks = samples.new_ones(max(1, len(samples) - 1), 1, height, width)
    cell = model.get_model_object("latent_format").spacial_downscale_ratio
    masks = masks.to(samples.device, torch.float32)
    return F.interpolate(masks, (cell * height, cell * width), mode="nearest")[:, 0]
