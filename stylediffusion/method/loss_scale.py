"""Gradients through a model in half precision, whose smallest numbers are larger than they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEP_DOWN = 16.0
LOSS_SCALE = "loss_scale"
"""Its name in the state of a solver."""


class LossScale:
    """What a loss is multiplied by on its way back, kept over a run (Micikevicius et al. 2018).

    The loss is a mean over many elements, so that the gradient of each is so small that fp16 would
    round it to zero. Whoever reads a gradient that is not finite lowers the scale, for good, and
    asks for another forward pass; nothing here reads from a device.
    """

    def __init__(self) -> None:
        self.lowered = 0

    def of(self, whole: float) -> float:
        """What is left of a scale that the model asks for, never below 1."""
        return max(1.0, whole / STEP_DOWN**self.lowered)

    def lower(self, whole: float) -> bool:
        """One step down; False where it is 1 already, and the gradient at fault."""
        if self.of(whole) == 1:
            return False
        self.lowered += 1
        return True


def gradients_of(loss: Tensor, leaves: Sequence[Tensor], scale: float) -> list[Tensor]:
    """d loss / d leaf, taken of scale * loss and divided again; at 1 nothing is changed."""
    if scale == 1:
        return list(torch.autograd.grad(loss, leaves))
    return [gradient / scale for gradient in torch.autograd.grad(loss * scale, leaves)]
