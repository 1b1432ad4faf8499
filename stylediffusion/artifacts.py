"""What travels between the nodes: plain data on the CPU, cached by the host between runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .learning import InnerLoss
from .schedule import Levels

Conditioning = list[tuple[Tensor, dict[str, Any]]]

VALUE_EMBEDDING, NULL_TEXT, TEXT_EMBEDDING = "value embedding", "null text", "text embedding"
KINDS = {VALUE_EMBEDDING: "Learn Value Embedding", NULL_TEXT: "Learn Prompt Embedding",
         TEXT_EMBEDDING: "Learn Prompt Embedding"}


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
    """Learnt scale and shift of a prompt embedding, fp32 [N, 77, d], a row for each sampling step.

    `kind` says what hears c * s + b: the value input of the conditional half; or, in the companions
    of the paper's table, where s = 0 and b is what was learnt, key and value input of the whole
    unconditional half (null text), or of the source (text embedding).
    """

    scale: Tensor
    shift: Tensor
    guidance: float
    prompt: str
    fingerprint: str
    losses: tuple[InnerLoss, ...]
    kind: str = VALUE_EMBEDDING

    @property
    def steps(self) -> int:
        """N."""
        return len(self.scale)


def require_own_embedding(trajectory: Trajectory, embedding: ValueEmbedding) -> None:
    """Raise ValueError unless an embedding was learnt for this prompt over these steps."""
    if embedding.steps != trajectory.steps:
        raise ValueError(
            f"the {embedding.kind} was learnt over {embedding.steps} steps, but the trajectory has "
            f"{trajectory.steps}; run {KINDS[embedding.kind]} on this trajectory"
        )
    if embedding.prompt != trajectory.prompt:
        raise ValueError(
            f"the {embedding.kind} was learnt for the prompt '{embedding.prompt}', but the "
            f"trajectory was inverted with '{trajectory.prompt}'; run {KINDS[embedding.kind]} on "
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
