"""The three units a latent is written in, and every conversion between them.

VP: z of the paper, in which learning and all losses are. k-diffusion: x = z * sqrt(1 + sigma^2),
in which the host's samplers call a model. Host: VP over the scale factor of the model's latent
format, as a LATENT carries it between nodes.
"""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from torch import Tensor


def vp_to_k(latent: Tensor, sigma: float | Tensor) -> Tensor:
    """VP latent z to k-diffusion latent x = z * sqrt(1 + sigma^2)."""
    return latent * (1 + sigma**2) ** 0.5


def k_to_vp(latent: Tensor, sigma: float | Tensor) -> Tensor:
    """k-diffusion latent x to VP latent z = x / sqrt(1 + sigma^2)."""
    return latent / (1 + sigma**2) ** 0.5


def vp_to_host(model: ModelPatcher, latent: Tensor) -> Tensor:
    """A VP latent in the units of a LATENT (z / scale_factor)."""
    return model.get_model_object("latent_format").process_out(latent)


def host_to_vp(model: ModelPatcher, samples: Tensor) -> Tensor:
    """A LATENT's samples as a VP latent."""
    return model.get_model_object("latent_format").process_in(samples)
