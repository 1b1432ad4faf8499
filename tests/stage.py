"""Work done with a MODEL made ready by the host, as learning does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
import torch.nn.functional as F
from stylediffusion_pack.stylediffusion.host import attention
from stylediffusion_pack.stylediffusion.host.autograd.clone import differentiable_clone
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel
from stylediffusion_pack.stylediffusion.host.model import training_alphas
from stylediffusion_pack.stylediffusion.method import schedule
from stylediffusion_pack.stylediffusion.method.layers import supervising_layers

from tests import families

LEVEL = 2
Gradients = tuple[torch.Tensor, torch.Tensor]


class _Stage(comfy.samplers.Sampler):
    def __init__(self, work: Callable[[Any, dict[str, Any], torch.Tensor], Any]) -> None:
        self.work, self.result = work, None

    def sample(self, model_wrap: Any, sigmas: Any, extra_args: Any, *rest: Any, **_: Any) -> Any:
        latent = rest[2]
        self.result = self.work(model_wrap, extra_args["model_options"], latent)
        return torch.zeros_like(latent)


def with_learning_model(
    model: Any, family: str, size: tuple[int, int],
    work: Callable[[HostLearningModel, torch.Tensor], Any],
) -> Any:
    """What work gives for a differentiable copy of a MODEL, under a family's random prompts, and
    a latent [1, 4, *size], both where the host runs them."""
    levels = schedule.make_levels(4, training_alphas(model))

    def begin(model_wrap: Any, options: dict[str, Any], like: torch.Tensor) -> Any:
        latent = 0.5 * torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(14))
        latent, sigmas = latent.to(like.device), levels.sigmas.float().to(like.device)
        finder, conds = attention.LayerFinder(), model_wrap.conds
        with torch.no_grad():
            comfy.samplers.calc_cond_batch(
                model_wrap.inner_model, [conds["positive"], None], latent, sigmas[:1],
                attention.with_patch(options, "attn2_patch", finder.patch))
        layers = supervising_layers(tuple(finder.layers.values()), *latent.shape[-2:])
        with torch.enable_grad():
            own = HostLearningModel(model_wrap, options, levels, sigmas, layers)
            return work(own, latent)

    with torch.inference_mode(False):
        guider = comfy.samplers.CFGGuider(differentiable_clone(model))
        guider.set_conds(*families.prompts(family, 2))
        stage, start = _Stage(begin), torch.zeros(1, 4, *size)
        guider.sample(start, start, stage, levels.sampling_sigmas(), disable_pbar=True)
    return stage.result


def values(latent: torch.Tensor) -> Gradients:
    """(scale, shift) [77, 64] to take gradients of, the same every time."""
    generator = torch.Generator().manual_seed(21)
    scale, shift = (torch.randn(2, 77, 64, generator=generator) * 0.1).to(latent.device)
    return (1 + scale).requires_grad_(), shift.clone().requires_grad_()


def inner_step(
    model: HostLearningModel, latent: torch.Tensor, wanted: list[torch.Tensor]
) -> tuple[float, Gradients]:
    """Loss and gradients of one pass: the mean square of its noise and of how far maps are off."""
    scale, shift = values(latent)
    noise, maps = model.noise_with(latent, LEVEL, scale, shift, bool(wanted))
    loss = noise.square().mean()
    for found, other in zip(maps, wanted, strict=True):
        loss = loss + 100 * F.mse_loss(found, other)
    with torch.autograd.set_multithreading_enabled(False):  # where a test's modes are active
        found_scale, found_shift = torch.autograd.grad(loss, [scale, shift])
    return float(loss.detach()), (found_scale, found_shift)


def wanted_maps(model: HostLearningModel, latent: torch.Tensor) -> list[torch.Tensor]:
    """The maps of the supervising layers one level nearer the picture."""
    with torch.no_grad():
        return model.maps(latent, LEVEL - 1)
