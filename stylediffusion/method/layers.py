"""The cross-attention layers of a UNet, and those whose maps learning and local blend read."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionLayer:
    """A transformer block of the UNet, by the key the host knows it by, and its grid."""

    block: str
    number: int
    index: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Number of grid cells."""
        return self.height * self.width


def supervising_layers(
    layers: tuple[AttentionLayer, ...], height: int, width: int
) -> tuple[AttentionLayer, ...]:
    """Encoder and decoder layers whose grid is 1/4 of a latent of h x w cells.

    A UNet without such layers uses the grid nearest to 16 x 16.
    """
    outer = tuple(layer for layer in layers if layer.block != "middle")
    quarter = tuple(
        layer for layer in outer
        if (layer.height, layer.width) == (math.ceil(height / 4), math.ceil(width / 4))
    )
    if quarter or not outer:
        return quarter
    nearest = min(outer, key=lambda layer: abs(math.log(layer.tokens / 256))).tokens
    return tuple(layer for layer in outer if layer.tokens == nearest)
