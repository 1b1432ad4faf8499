"""Work that is not sampling, done where the host would sample: a loaded model, ready prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..method.data import Conditioning
from .model import ModelPatcher

Callback = Callable[[int, Tensor, Tensor, int], None]


@dataclass(frozen=True)
class Stage:
    """What the host's guider hands to a sampler: itself, the sigmas on the device, model options.

    `latent_vp` [n, C, h, w] is the one that was given, on the device.
    """

    guider: Any
    sigmas: Tensor
    arguments: dict[str, Any]
    callback: Callback | None
    latent_vp: Tensor

    @property
    def model_options(self) -> dict[str, Any]:
        """The options with which the host would call the model."""
        options: dict[str, Any] = self.arguments["model_options"]
        return options

    def denoised(self, latents_k: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> Tensor:
        """The host's guided x0 for latents [n, C, h, w] at one sigma."""
        arguments = {**self.arguments, "model_options": model_options}
        x0: Tensor = self.guider(latents_k, sigma.expand(len(latents_k)), **arguments)
        return x0


class _StageSampler(comfy.samplers.Sampler):
    def __init__(self, work: Callable[[Stage], None]) -> None:
        self.work = work

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any],
        callback: Callback | None, noise: Tensor, latent_image: Tensor,
        denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the guider with the model ready; returns the latent unchanged."""
        self.work(Stage(model_wrap, sigmas, extra_args, callback, latent_image))
        return latent_image


def on_stage(
    model: ModelPatcher, positive: Conditioning, negative: Conditioning, sigmas: Tensor,
    samples: Tensor, work: Callable[[Stage], None], cfg: float = 1.0,
    callback: Callback | None = None,
) -> None:
    """Have the host load a MODEL and prepare prompts for samples [n, C, h, w] of a LATENT, then
    do `work`, and clean up behind it as behind any sampling."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    torch.manual_seed(0)  # as the host's KSampler does for nodes that draw
    guider.sample(
        torch.zeros_like(samples), samples, _StageSampler(work), sigmas, callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
