"""The numbers beside every edit that need no networks, by the names that Edit Metrics has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stylediffusion.measures import pixels
from stylediffusion.measures.regions import EDITED, UNMASKED, WHOLE, Values
from stylediffusion.measures.table import METRICS, Compared

from . import pictures
from .rows import PIE_SIDE, Row

DECIMALS = 5
WITHOUT_NETWORKS = tuple(metric for metric in METRICS if metric.network is None)


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
    """To the source, by all metrics without networks; and to the truth where it is known.

    psnr_reconstruction: of the source under the same method. psnr_inside: to the true edit, where
    that differs from the source. psnr_outside: where it does not.
    """
    masked = seen.row.mask and seen.edit.shape[1:3] == (PIE_SIDE, PIE_SIDE)
    compared = Compared(
        seen.source, seen.edit, pictures.mask(seen.row.mask) if masked else None)
    found = {metric.name: one(metric.compute(compared, {})) for metric in WITHOUT_NETWORKS
             if masked or not metric.needs}
    if seen.reconstruction is not None:
        found["psnr_reconstruction"] = one(pixels.psnr(seen.source, seen.reconstruction))
    if seen.truth is not None:
        changed = (seen.truth - seen.source).abs().amax(-1).gt(0).float()
        inside = WHOLE if changed.all() else EDITED
        found["psnr_inside"] = one(pixels.psnr(seen.truth, seen.edit, changed, inside))
        found["psnr_outside"] = one(pixels.psnr(seen.truth, seen.edit, changed, UNMASKED))
    return found


def one(values: Values) -> float | None:
    """The number of the only picture, rounded; equal pictures have none in dB."""
    (value,) = values
    return None if value is None or math.isinf(value) else round(value, DECIMALS)
