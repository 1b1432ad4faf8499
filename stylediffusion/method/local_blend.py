"""Local blend: edits show only where their words look (Prompt-to-Prompt, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Blend:
    """Where a word looks: above `threshold` of its strongest cell, from `start` of the steps on.

    `pooling` is how many cells wide a cell spreads, 1 for none; `softness` how wide the edge is,
    from 0, a hard one, to 1, where the share of the strongest cell itself is the mask.
    """

    threshold: float = 0.3
    start: float = 0.2
    pooling: int = 3
    softness: float = 0.0

    def __post_init__(self) -> None:
        if self.pooling < 1 or self.pooling % 2 == 0:
            raise ValueError(
                f"blend_pooling is {self.pooling}, but must be an odd number: 1 for none, 3, 5 ...")

    def holds(self, step: int, steps: int) -> bool:
        """int(0.2 * N) <= i."""
        return step >= int(self.start * steps)


def word_mask(
    heat: Tensor, height: int, width: int, threshold: float, pooling: int = 1,
    softness: float = 0.0,
) -> Tensor:
    """Where heat [n, k, h, w] exceeds a share of its maximum: [n, k, height, width].

    Max-pooled and divided by its maximum; heat that is zero everywhere covers nothing. A hard mask
    is bool, by nearest neighbours; a soft one rises in 0..1 around the threshold.
    """
    if pooling > 1:
        heat = F.max_pool2d(heat, pooling, stride=1, padding=pooling // 2)
    largest = heat.amax(dim=(-2, -1), keepdim=True)
    share = torch.where(largest > 0, heat / largest, torch.zeros_like(heat))
    if softness == 0:
        return F.interpolate(share, (height, width), mode="nearest") > threshold
    smooth = F.interpolate(share, (height, width), mode="bilinear", align_corners=False)
    return ((smooth - threshold * (1 - softness)) / softness).clamp(0, 1)


def blend_mask(
    heat: Tensor, subtract: Tensor | None, height: int, width: int, blend: Blend
) -> Tensor:
    """Where an edit shows: [n, 1, height, width] from heat [n, 2, h, w] of source and target.

    Source or target words, without where the subtract words look (those are not pooled).
    """
    mask = word_mask(heat, height, width, blend.threshold, blend.pooling, blend.softness)
    mask = mask.amax(1, keepdim=True)
    if subtract is None:
        return mask
    hidden = word_mask(subtract, height, width, blend.threshold, softness=blend.softness)
    hidden = hidden.amax(1, keepdim=True)
    return mask & ~hidden if blend.softness == 0 else mask * (1 - hidden)


def painted_masks(mask: Tensor, count: int, height: int, width: int) -> Tensor:
    """A painted mask [1 or count, H, W] at the latent's size: fp32 [count, height, width].

    Raises ValueError for another number of masks, or another shape than the picture's.
    """
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu()
    if len(mask) not in (1, count):
        raise ValueError(
            f"mask holds {len(mask)} masks, but the number of targets is {count}; connect one mask "
            "for all, or one a target"
        )
    own_height, own_width = mask.shape[-2:]
    if not is_of_shape((own_height, own_width), (height, width)):
        raise ValueError(
            f"the mask is {own_width} x {own_height} pixels, but the picture that was inverted has "
            f"another shape, {width} x {height} cells of its latent; paint the mask on that picture"
        )
    fitted = F.interpolate(mask, (height, width), mode="bilinear", antialias=True)
    return fitted[:, 0].clamp(0, 1).expand(count, -1, -1)


def is_of_shape(picture: tuple[int, int], latent: tuple[int, int]) -> bool:
    """Whether a latent of rows and columns can be that of a picture of so many pixels.

    The VAE crops less than a cell, so some size of a cell must fit both sides.
    """
    sides = list(zip(picture, latent, strict=True))
    return max(side / (cells + 1) for side, cells in sides) < min(
        side / cells for side, cells in sides)


def blended(latents: Tensor, mask: Tensor) -> Tensor:
    """z_source + mask * (z_target - z_source) for latents [1 + n, C, h, w], source first."""
    source = latents[:1]
    targets = source + mask.to(latents) * (latents[1:] - source)
    return torch.cat([source, targets])
