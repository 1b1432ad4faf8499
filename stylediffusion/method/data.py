"""What travels between the nodes: plain data on the CPU, cached by the host between runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .layers import AttentionLayer
from .schedule import Levels

Conditioning = list[tuple[Tensor, dict[str, Any]]]

VALUE_EMBEDDING, NULL_TEXT, TEXT_EMBEDDING = "value embedding", "null text", "text embedding"
KINDS = {VALUE_EMBEDDING: "Learn Value Embedding", NULL_TEXT: "Learn Prompt Embedding",
         TEXT_EMBEDDING: "Learn Prompt Embedding"}


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
class InnerLoss:
    """What one inner step found before its update."""

    step: int
    inner: int
    latent: float
    attention: float

    @property
    def total(self) -> float:
        """The loss that was minimised."""
        return self.latent + self.attention


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
