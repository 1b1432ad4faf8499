"""Gradients through a model in half precision, whose smallest numbers are larger than they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEP_DOWN = 16.0


def gradients_of(loss: Tensor, leaves: Sequence[Tensor], scale: float) -> list[Tensor]:
    """d loss / d leaf, taken of scale * loss and divided again, as in Micikevicius et al. 2018.

    The loss is a mean over many elements, so that each hears so little of it that fp16 would round
    it to zero. A scale that overflows is lowered; at 1 nothing is changed.
    """
    while True:
        found = torch.autograd.grad(loss * scale, leaves, retain_graph=scale > 1)
        if scale <= 1 or all(bool(torch.isfinite(gradient).all()) for gradient in found):
            return [gradient / scale for gradient in found]
        scale /= STEP_DOWN
