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

from ...method.data import Trajectory, ValueEmbedding, require_own_embedding
from ...method.prompt_to_prompt import Control
from ...method.schedule import vp_to_k
from ..invert.inversion import to_host
from ..model import ModelPatcher, require_compatible, warn_if_other
from .guider import P2PlusGuider


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


def sampling_parts(
    model: ModelPatcher,
    trajectory: Trajectory,
    embedding: ValueEmbedding | None,
    control: Control | None,
    guidance: float,
    exact_source: bool = False,
) -> SamplingParts:
    """All that sampling needs, for the host's sampler or for `sample_edits`.

    `guidance` 0 means as learnt, else 7.5. `exact_source` sets row 0 to the trajectory after every
    step (direct inversion, Ju et al. 2023). Raises ValueError where the parts do not belong
    together.
    """
    require_matching(trajectory, embedding, control)
    require_compatible(model, trajectory)
    warn_if_other(model, trajectory.fingerprint, "the trajectory")
    if embedding is not None:
        warn_if_other(model, embedding.fingerprint, f"the {embedding.kind}")
    if guidance == 0:
        guidance = 7.5 if embedding is None else embedding.guidance
    guider = P2PlusGuider(model, trajectory, embedding, control, guidance, exact_source)
    sigmas = trajectory.levels.sampling_sigmas()
    start = to_host(model, vp_to_k(trajectory.noise, float(sigmas[0])))
    euler = comfy.samplers.sampler_object("euler")  # DDIM, on these sigmas
    return SamplingParts(NoNoise(), guider, euler, sigmas, {"samples": start})


def sample_edits(
    model: ModelPatcher, trajectory: Trajectory, embedding: ValueEmbedding | None,
    control: Control | None, guidance: float, exact_source: bool = False,
) -> dict[str, Any]:
    """LATENT in host units: row 0 the reconstruction, one more row for each target.

    For nodes that show a picture of their own: the page would keep a preview in its place.
    """
    latent, _ = sample_with_masks(
        model, trajectory, embedding, control, guidance, exact_source, preview=False)
    return latent


def sample_with_masks(
    model: ModelPatcher, trajectory: Trajectory, embedding: ValueEmbedding | None,
    control: Control | None, guidance: float, exact_source: bool = False, preview: bool = True,
) -> tuple[dict[str, Any], Tensor]:
    """What `sample_edits` gives, and the last blend mask of each target [targets, H, W]."""
    parts = sampling_parts(model, trajectory, embedding, control, guidance, exact_source)
    follow = _preview_of_edits if preview else _progress
    samples = parts.guider.sample(
        parts.noise.generate_noise(parts.latent), parts.latent["samples"], parts.sampler,
        parts.sigmas, callback=follow(model, trajectory.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=parts.noise.seed,
    )
    samples = samples.to(comfy.model_management.intermediate_device())
    require_finite(samples)
    return {"samples": samples}, shown_masks(model, parts.guider, samples)


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


def require_matching(
    trajectory: Trajectory, embedding: ValueEmbedding | None, control: Control | None
) -> None:
    """Raise ValueError unless embedding and control were made for this trajectory."""
    if embedding is not None:
        require_own_embedding(trajectory, embedding)
    if control is not None and control.source_prompt != trajectory.prompt:
        raise ValueError(
            f"the control was made for the prompt '{control.source_prompt}', but the trajectory "
            f"was inverted with '{trajectory.prompt}'; connect the same trajectory to P2Plus "
            "Controller and Sample"
        )
    require_own_masks(trajectory, control)


def require_own_masks(trajectory: Trajectory, control: Control | None) -> None:
    """Raise ValueError where a painted mask was fitted to a picture of another size."""
    own = trajectory.latents.shape[-2:]
    for target in () if control is None else control.targets:
        if target.mask is not None and target.mask.shape != own:
            found = " x ".join(map(str, reversed(target.mask.shape)))
            raise ValueError(
                f"the control's mask was painted for a latent of {found}, but the trajectory's are "
                f"{own[1]} x {own[0]}; connect the same trajectory to P2Plus Controller and Sample"
            )
