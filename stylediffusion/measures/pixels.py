"""MSE, PSNR and SSIM of pictures in 0..1: over all pixels, some of them, or as published."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import (
    AS_PUBLISHED,
    EDITED,
    WHOLE,
    Values,
    hard,
    partly_masked,
    require_same_size,
    without_alpha,
    without_edit,
)

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # (k L)^2 with data range L = 1


def mse(
    reference: Tensor, edit: Tensor, mask: Tensor | None = None, region: str = WHOLE
) -> Values:
    """Mean squared error of pictures [B, H, W, 3].

    whole: all pixels. unmasked, edited: only those outside or inside the mask [B, H, W]. as
    published: both pictures times 1 - mask, all pixels, zeros counting. None where the mask is
    empty or full. Raises ValueError for sizes that differ.
    """
    return _measured(_squared_error, 1, reference, edit, mask, region)


def psnr(
    reference: Tensor, edit: Tensor, mask: Tensor | None = None, region: str = WHOLE
) -> Values:
    """-10 log10(MSE) in dB, over the regions of `mse`; infinite where nothing differs."""
    return [None if value is None else -10 * math.log10(value) if value else math.inf
            for value in mse(reference, edit, mask, region)]


def ssim(
    reference: Tensor, edit: Tensor, mask: Tensor | None = None, region: str = WHOLE
) -> Values:
    """Structural similarity (Wang et al. 2004): Gaussian windows of 11x11, sigma 1.5, per channel.

    A window around every pixel, the borders reflected, as torchmetrics has it. With unmasked or
    edited, only those that see no pixel of the other side, so that nothing done there moves the
    number. None where no window is left.
    """
    return _measured(ssim_map, WINDOW, reference, edit, mask, region)


def ssim_map(reference: Tensor, edit: Tensor) -> Tensor:
    """SSIM of the window around every pixel of two [B, H, W, C], as [B, H, W, C].

    (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))
    """
    x, y = (pictures.movedim(-1, 1) for pictures in (reference, edit))
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM looks through windows of {WINDOW}x{WINDOW} pixels, but the "
                         f"pictures are {x.shape[-1]}x{x.shape[-2]}; compare larger ones")
    of_x, of_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - of_x**2, _blur(y * y) - of_y**2
    covariance = _blur(x * y) - of_x * of_y
    similarity = ((2 * of_x * of_y + C1) * (2 * covariance + C2)
                  / ((of_x**2 + of_y**2 + C1) * (var_x + var_y + C2)))
    return similarity.movedim(1, -1)


def _blur(images: Tensor) -> Tensor:
    """Gaussian means around every pixel of [B, C, H, W], rows after columns."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weights = torch.exp(-(offsets / SIGMA) ** 2 / 2)
    weights = (weights / weights.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, [WINDOW // 2] * 4, mode="reflect")
    down = F.conv2d(padded, weights.unsqueeze(-1), groups=images.shape[1])
    return F.conv2d(down, weights.unsqueeze(-2), groups=images.shape[1])


def _squared_error(reference: Tensor, edit: Tensor) -> Tensor:
    return (reference - edit).square()


def _measured(
    measure: Callable[[Tensor, Tensor], Tensor], window: int, reference: Tensor, edit: Tensor,
    mask: Tensor | None, region: str,
) -> Values:
    """Means over a region of a measure that looks at every place through a window of pixels."""
    count = require_same_size(reference, edit, mask)
    pair = [without_alpha(pictures).expand(count, -1, -1, -1) for pictures in (reference, edit)]
    if region == WHOLE:
        return [float(row.mean()) for row in measure(*pair)]
    if mask is None:
        raise ValueError(f"the region '{region}' needs a mask, which says where the edit is meant "
                         "to be; connect one, or measure the whole picture")
    usable = partly_masked(mask, count)
    if region == AS_PUBLISHED:
        values = measure(*(without_edit(pictures, mask) for pictures in pair))
        return [float(row.mean()) if use else None
                for row, use in zip(values, usable, strict=True)]
    where = _sees_only(hard(mask) == (region == EDITED), window).expand(count, -1, -1)
    return [float(row[seen].mean()) if use and seen.any() else None
            for row, seen, use in zip(measure(*pair), where, usable, strict=True)]


def _sees_only(wanted: Tensor, window: int) -> Tensor:
    """Around which pixels of a bool [B, H, W] a window holds wanted pixels alone."""
    other = (~wanted).to(torch.float32).unsqueeze(1)
    return F.max_pool2d(other, window, stride=1, padding=window // 2).squeeze(1) == 0
