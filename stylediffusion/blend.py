"""Local blend: edits show only where their words look (Prompt-to-Prompt, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Blend:
    """Where a word looks: above `threshold` of its strongest cell, from `start` of the steps on."""

    threshold: float = 0.3
    start: float = 0.2
    pooling: int = 3

    def holds(self, step: int, steps: int) -> bool:
        """int(0.2 * N) <= i."""
        return step >= int(self.start * steps)


def word_mask(
    heat: Tensor, height: int, width: int, threshold: float, pooling: int = 1
) -> Tensor:
    """Where heat [n, k, h, w] exceeds a share of its maximum: bool [n, k, height, width].

    Max-pooled, divided by its maximum, taken to the latent's size by nearest neighbours. Heat that
    is zero everywhere covers nothing.
    """
    if pooling > 1:
        heat = F.max_pool2d(heat, pooling, stride=1, padding=pooling // 2)
    largest = heat.amax(dim=(-2, -1), keepdim=True)
    share = torch.where(largest > 0, heat / largest, torch.zeros_like(heat))
    return F.interpolate(share, (height, width), mode="nearest") > threshold


def blend_mask(
    heat: Tensor, subtract: Tensor | None, height: int, width: int, blend: Blend
) -> Tensor:
    """Where an edit shows: bool [n, 1, height, width] from heat [n, 2, h, w] of source and target.

    Source or target words, without where the subtract words look (those are not pooled).
    """
    mask = word_mask(heat, height, width, blend.threshold, blend.pooling).any(1, keepdim=True)
    if subtract is not None:
        mask &= ~word_mask(subtract, height, width, blend.threshold).any(1, keepdim=True)
    return mask


def blended(latents: Tensor, mask: Tensor) -> Tensor:
    """z_source + mask * (z_target - z_source) for latents [1 + n, C, h, w], source first."""
    source = latents[:1]
    targets = source + mask.to(latents) * (latents[1:] - source)
    return torch.cat([source, targets])
