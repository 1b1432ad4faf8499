"""Sampling the source and its edits in one batch: a GUIDER, a SAMPLER and SIGMAS of the host."""

from __future__ import annotations

import functools
import math
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

from ..artifacts import (
    Conditioning,
    Trajectory,
    ValueEmbedding,
    require_own_embedding,
    supervising_layers,
)
from ..control import Control
from ..schedule import k_to_vp, vp_to_k
from .editing import P2PlusRun, sample_by_steps
from .inverting import to_host
from .model import ModelPatcher, require_compatible, warn_if_other


class P2PlusGuider(comfy.samplers.CFGGuider):
    """The host's guider on a batch whose row 0 is the source and whose other rows are the targets.

    One latent in (k-diffusion units at the first sigma), 1 + targets out (VP). Patches are added
    when a run starts and gone when it ends; `masks` [targets, 1, h, w] are the last ones the edits
    were blended by, where they were.
    """

    model_options: dict[str, Any]
    masks: Tensor | None = None

    def __init__(
        self,
        model: ModelPatcher,
        trajectory: Trajectory,
        embedding: ValueEmbedding | None,
        control: Control | None,
        guidance: float,
        exact_source: bool = False,
    ) -> None:
        super().__init__(model)
        self.trajectory = trajectory
        self.exact_source = exact_source
        self.embedding = embedding
        self.control = control
        targets = () if control is None else control.targets
        self.rows = 1 + len(targets)
        prompts = [trajectory.positive, *(target.conditioning for target in targets)]
        self.set_conds(stacked(prompts), trajectory.negative)
        self.set_cfg(guidance)

    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: comfy.samplers.Sampler, sigmas: Tensor,
        *args: Any, **kwargs: Any,
    ) -> Tensor:
        """As the host's guider; the latent is shared by all rows.

        Raises ValueError for a latent, noise, sigmas or a sampler that are not of this trajectory.
        """
        require_size(latent_image, self.trajectory)
        require_own_road(self.trajectory, noise, sigmas)
        require_blending(self.control, self.exact_source, sampler)
        layers = self.trajectory.layers
        source = source_latents(self.trajectory) if self.exact_source else None
        run = P2PlusRun(
            self.control, self.embedding, len(sigmas) - 1, self.model_patcher.load_device, layers,
            supervising_layers(layers, *latent_image.shape[-2:]), source)
        before = self.model_options
        self.model_options = run.options(before)
        try:
            samples: Tensor = super().sample(
                noise.expand(self.rows, -1, -1, -1).clone(),
                latent_image.expand(self.rows, -1, -1, -1).clone(),
                sampler, sigmas, *args, **kwargs,
            )
        finally:
            self.model_options = before
        self.masks = run.masks
        return k_to_vp(samples, float(sigmas[-1]))


def require_own_road(trajectory: Trajectory, noise: Tensor, sigmas: Tensor) -> None:
    """Raise ValueError unless sampling goes back over the trajectory's levels without new noise."""
    own = trajectory.levels.sampling_sigmas()
    if sigmas.shape != own.shape or not torch.allclose(sigmas.cpu(), own):
        raise ValueError(
            f"the sigmas are {len(sigmas) - 1} steps of another schedule, but the trajectory was "
            f"walked in {len(own) - 1} steps of its own; connect the sigmas of P2Plus Guider"
        )
    if noise.any():
        raise ValueError(
            "noise would be added to the trajectory, which ends in noise already; connect the "
            "noise of P2Plus Guider, or DisableNoise"
        )


def require_blending(
    control: Control | None, exact_source: bool, sampler: comfy.samplers.Sampler
) -> None:
    """Raise ValueError where something is to be done after each step, by a sampler that won't."""
    function = getattr(sampler, "sampler_function", None)
    ours = isinstance(function, functools.partial) and function.func is sample_by_steps
    if needs_steps(control, exact_source) and not ours:
        raise ValueError(
            "blend_words, a mask and exact_source act between the steps, which another sampler "
            "leaves out; connect the sampler of P2Plus Guider"
        )


def require_size(latent: Tensor, trajectory: Trajectory) -> None:
    """Raise ValueError unless a latent [1, C, h, w] has the trajectory's channels and size."""
    channels, height, width = trajectory.latents.shape[1:]
    if latent.shape != (1, channels, height, width):
        raise ValueError(
            f"the latent is {' x '.join(map(str, latent.shape))}, but the trajectory's latents are "
            f"1 x {channels} x {height} x {width}; connect the latent of the picture that was "
            "inverted, or invert this one"
        )


def stacked(prompts: list[Conditioning]) -> Conditioning:
    """One conditioning entry with a row a prompt, so that the host pairs rows with latents.

    Shorter prompts are repeated to the length of all, as the host does with two.
    """
    entries = [prompt[0] for prompt in prompts]
    length = math.lcm(*(tensor.shape[1] for tensor, _ in entries))
    merged = dict(entries[0][1])
    for key, value in entries[0][1].items():
        if isinstance(value, Tensor) and value.shape[:1] == (1,):
            merged[key] = torch.cat([entry[1][key] for entry in entries])
    rows = [tensor.repeat(1, length // tensor.shape[1], 1) for tensor, _ in entries]
    return [(torch.cat(rows), merged)]


def source_latents(trajectory: Trajectory) -> Tensor:
    """What row 0 should be after each sampling step: k-diffusion latents [N, C, h, w]."""
    sigmas = trajectory.levels.sigmas[:-1].to(torch.float32).view(-1, 1, 1, 1)
    return vp_to_k(trajectory.latents[:-1], sigmas).flip(0)


def needs_steps(control: Control | None, exact_source: bool) -> bool:
    """Whether something is done to the latents between the steps."""
    return exact_source or (control is not None and control.blends)


def make_sampler(control: Control | None, exact_source: bool = False) -> comfy.samplers.Sampler:
    """The host's Euler, which is DDIM on these sigmas; with more after each step where asked."""
    euler = comfy.samplers.sampler_object("euler")
    if not needs_steps(control, exact_source):
        return euler
    return comfy.samplers.KSAMPLER(functools.partial(sample_by_steps, euler.sampler_function))


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
    return SamplingParts(
        NoNoise(), guider, make_sampler(control, exact_source), sigmas, {"samples": start})


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
    follow = latent_preview.prepare_callback if preview else _progress
    samples = parts.guider.sample(
        parts.noise.generate_noise(parts.latent), parts.latent["samples"], parts.sampler,
        parts.sigmas, callback=follow(model, trajectory.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=parts.noise.seed,
    )
    samples = samples.to(comfy.model_management.intermediate_device())
    require_finite(samples)
    return {"samples": samples}, shown_masks(model, parts.guider, samples)


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
