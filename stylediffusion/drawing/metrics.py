"""How alike two pictures are."""

from __future__ import annotations

import math

from torch import Tensor


def psnr(found: Tensor, wanted: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures [..., H, W, C] in 0..1.

    `where` bool [..., H, W] restricts it to some pixels. Infinite for equal pictures. Raises
    ValueError for different shapes, or where no pixel is chosen.
    """
    if found.shape != wanted.shape:
        raise ValueError(
            f"pictures of shape {tuple(found.shape)} and {tuple(wanted.shape)} cannot be compared")
    error = (found.double() - wanted.double()).square()
    if where is not None:
        error = error[where]
    if not error.numel():
        raise ValueError("no pixel was chosen to compare the pictures at")
    mean = float(error.mean())
    return -10 * math.log10(mean) if mean else math.inf
