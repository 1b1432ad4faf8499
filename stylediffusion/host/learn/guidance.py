"""Whether sampling guides a MODEL as learning does, which runs both branches by themselves."""

from __future__ import annotations

from typing import Any

import torch

from ...method.data import relative_difference
from ...method.ddim import guide
from ..caching import may_cache
from ..model import ModelPatcher, nodes_on
from .unet import HostLearningModel

SAME = 0.01


def require_plain_guidance(
    model: ModelPatcher, learning: HostLearningModel, guider: Any, latents: torch.Tensor
) -> None:
    """Raise ValueError where another node makes a guided step of sampling come out otherwise.

    Tried on the latents [N + 1, C, h, w] (VP) where anything is on the MODEL at all: a node may
    change guidance itself, as RescaleCFG, in some steps only, as CFG Override, or act only where
    both branches run together, as NAGuidance. `guider` is at the guidance that is learnt.
    """
    names = nodes_on(model)
    levels = range(1, len(latents)) if may_guide(model) else [(len(latents) + 1) // 2]
    for level in levels if names else []:
        off = _difference(learning, guider, latents[level : level + 1], level)
        if off > SAME:
            raise ValueError(
                f"another node changes how this MODEL is guided while sampling (by {100 * off:.0f} "
                f"% of step {len(latents) - level} of {len(latents) - 1}; on it are nodes of "
                f"{', '.join(names)}), and learning cannot follow: the picture would not come "
                "back; connect the MODEL from before that node to all StyleDiffusion nodes"
            )


def may_guide(model: ModelPatcher) -> bool:
    """Whether a node is where guidance is made, and could act in any of the steps."""
    return may_cache(model) or any(
        name.startswith("sampler_") for name, held in model.model_options.items() if held)


def _difference(
    learning: HostLearningModel, guider: Any, latent: torch.Tensor, level: int
) -> float:
    with torch.no_grad():
        without = learning.noise(latent, level)
        with_embedding = learning.noise_of(latent, level, learning.branch, learning.options)
        plain = guide(without, with_embedding, learning.weight(guider.cfg))
        return relative_difference(learning.guided(guider, latent, level), plain)
