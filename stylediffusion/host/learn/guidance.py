"""Whether sampling guides a MODEL as learning does, which runs both branches by themselves."""

from __future__ import annotations

from typing import Any

import torch

from ...method.data import relative_difference
from ...method.ddim import guide
from ..model import ModelPatcher, nodes_on
from .unet import HostLearningModel

SAME = 0.01


def require_plain_guidance(
    model: ModelPatcher, learning: HostLearningModel, guider: Any, latents: torch.Tensor
) -> None:
    """Raise ValueError where another node makes a guided step of sampling come out otherwise.

    Tried in the middle of the latents [N + 1, C, h, w] (VP) where anything is on the MODEL at all:
    a node may change guidance itself, as RescaleCFG, or act only where both branches run together,
    as NAGuidance. `guider` is at the guidance that is learnt.
    """
    names = nodes_on(model)
    if not names:
        return
    level = (len(latents) + 1) // 2
    latent = latents[level : level + 1]
    with torch.no_grad():
        without = learning.noise(latent, level)
        with_embedding = learning.noise_of(latent, level, learning.branch, learning.options)
        plain = guide(without, with_embedding, learning.weight(guider.cfg))
        off = relative_difference(learning.guided(guider, latent, level), plain)
    if off > SAME:
        raise ValueError(
            f"another node changes how this MODEL is guided while sampling (by {100 * off:.0f} % "
            f"of a step; on it are nodes of {', '.join(names)}), and learning cannot follow: the "
            "picture would not come back; connect the MODEL from before that node to all "
            "StyleDiffusion nodes"
        )
