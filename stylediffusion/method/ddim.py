"""DDIM steps and DDIM inversion in VP units (section 3.1; Song et al. 2020, eq. 12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .schedule import Levels

NoisePredictor = Callable[[Tensor, int], Tensor]
Refine = Callable[[NoisePredictor, Tensor, Tensor, int, Levels], Tensor]


def transfer(latent: Tensor, noise: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """The deterministic DDIM move of a VP latent between two noise levels, in either direction.

    z_to = sqrt(a_to) * (z - sqrt(1 - a_from) * eps) / sqrt(a_from) + sqrt(1 - a_to) * eps
    """
    clean = (latent - (1 - alpha_from) ** 0.5 * noise) / alpha_from**0.5
    return alpha_to**0.5 * clean + (1 - alpha_to) ** 0.5 * noise


def invert(
    predict_noise: NoisePredictor,
    latent: Tensor,
    levels: Levels,
    after_step: Callable[[int, Tensor, Tensor], None] | None = None,
    refine: Refine | None = None,
) -> Tensor:
    """Walk a VP latent [1, C, h, w] from level 0 to level N; returns all of them [N + 1, C, h, w].

    `predict_noise(z, level)` is evaluated at the NEXT level with the current latent.
    `after_step(k, z, eps)` sees entry k: the latent stepped from and the noise found on it.
    `refine(predict_noise, z_k, z_{k+1}, k, levels)` gives the z_{k+1} to go on from.
    Raises FloatingPointError naming the step when a latent is no longer finite.
    """
    trajectory = [latent]
    for k in range(levels.steps):
        noise = predict_noise(latent, k + 1)
        if after_step is not None:
            after_step(k, latent, noise)
        following = transfer(latent, noise, levels.alpha(k), levels.alpha(k + 1))
        if refine is not None:
            following = refine(predict_noise, latent, following, k, levels)
        latent = following
        if not torch.isfinite(latent).all():
            raise FloatingPointError(
                f"the latent is not finite after inversion step {k + 1} of {levels.steps}; "
                "run the model in bf16 or fp32 (--bf16-unet, --fp32-unet) and invert again"
            )
        trajectory.append(latent)
    return torch.cat(trajectory)


def guide(noise_uncond: Tensor, noise_cond: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: eps_uncond + w * (eps_cond - eps_uncond)."""
    return noise_uncond + guidance * (noise_cond - noise_uncond)
