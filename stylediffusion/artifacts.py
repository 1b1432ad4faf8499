"""What travels between the nodes: plain data on the CPU, cached by the host between runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .learning import InnerLoss
from .schedule import Levels

Conditioning = list[tuple[Tensor, dict[str, Any]]]


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


@dataclass(frozen=True)
class Trajectory:
    """A DDIM inversion: VP latents fp32 [N + 1, C, h, w], clean end first, and how it was made."""

    latents: Tensor
    levels: Levels
    prompt: str
    negative_prompt: str
    positive: Conditioning
    negative: Conditioning
    layers: tuple[AttentionLayer, ...]
    fingerprint: str

    @property
    def steps(self) -> int:
        """N."""
        return self.levels.steps

    @property
    def noise(self) -> Tensor:
        """z_N, VP [1, C, h, w]: where sampling starts."""
        return self.latents[-1:]


@dataclass(frozen=True)
class ValueEmbedding:
    """Learnt scale and shift of the value input, fp32 [N, 77, d], a row for each sampling step."""

    scale: Tensor
    shift: Tensor
    guidance: float
    prompt: str
    fingerprint: str
    losses: tuple[InnerLoss, ...]

    @property
    def steps(self) -> int:
        """N."""
        return len(self.scale)


def require_own_embedding(trajectory: Trajectory, embedding: ValueEmbedding) -> None:
    """Raise ValueError unless an embedding was learnt for this prompt over these steps."""
    if embedding.steps != trajectory.steps:
        raise ValueError(
            f"the value embedding was learnt over {embedding.steps} steps, but the trajectory has "
            f"{trajectory.steps}; run Learn Value Embedding on this trajectory"
        )
    if embedding.prompt != trajectory.prompt:
        raise ValueError(
            f"the value embedding was learnt for the prompt '{embedding.prompt}', but the "
            f"trajectory was inverted with '{trajectory.prompt}'; run Learn Value Embedding on "
            "this trajectory"
        )


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
