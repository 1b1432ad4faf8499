"""The numbers beside every edit that need no weights; their definitions are in their names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stylediffusion.measures import pixels
from stylediffusion.measures.regions import AS_PUBLISHED, UNMASKED, WHOLE, Values

from . import pictures
from .rows import PIE_SIDE, Row

DECIMALS = 4


@dataclass(frozen=True)
class Seen:
    """Pictures [1, H, W, 3] in 0..1 around one edit; what is not known is None."""

    row: Row
    source: Tensor
    edit: Tensor
    reconstruction: Tensor | None
    truth: Tensor | None


Measure = Callable[[Seen], dict[str, Any]]


def measure(seen: Seen) -> dict[str, Any]:
    """To the source over the whole picture and outside the mask, and to the truth where known.

    inside and outside are where the true edit differs from the source, and where it does not.
    """
    found: dict[str, Any] = {
        "psnr_whole": one(pixels.psnr(seen.source, seen.edit)),
        "ssim_whole": one(pixels.ssim(seen.source, seen.edit)),
    }
    if seen.reconstruction is not None:
        found["psnr_reconstruction"] = one(pixels.psnr(seen.source, seen.reconstruction))
    if seen.row.mask and seen.edit.shape[1:3] == (PIE_SIDE, PIE_SIDE):
        mask = pictures.mask(seen.row.mask)
        for region in (UNMASKED, AS_PUBLISHED):
            for name, of in (("psnr", pixels.psnr), ("ssim", pixels.ssim), ("mse", pixels.mse)):
                found[f"{name}_{region.replace(' ', '_')}"] = one(
                    of(seen.source, seen.edit, mask, region))
    if seen.truth is not None:
        changed = (seen.truth - seen.source).abs().amax(-1) > 0
        found["psnr_to_truth_inside"] = one(
            pixels.psnr(seen.truth, seen.edit, (~changed).float(), UNMASKED))
        found["psnr_outside"] = one(
            pixels.psnr(seen.truth, seen.edit, changed.float(), UNMASKED))
        if changed.all():
            found["psnr_to_truth_inside"] = one(
                pixels.psnr(seen.truth, seen.edit, None, WHOLE))
    return found


def one(values: Values) -> float | None:
    """The number of the only picture, rounded; equal pictures have none in dB."""
    (value,) = values
    return None if value is None or math.isinf(value) else round(value, DECIMALS)
