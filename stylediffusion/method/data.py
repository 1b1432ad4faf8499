"""What travels between the nodes: plain data on the CPU, cached by the host between runs."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layers import AttentionLayer
from .schedule import Levels

Conditioning = list[tuple[Tensor, dict[str, Any]]]
log = logging.getLogger("stylediffusion")
SAME_END = 0.05

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

    @property
    def ends(self) -> Tensor:
        """z_0 and z_N, VP [2, C, h, w]: the picture, and what its walk came to."""
        return self.latents[[0, -1]]


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
    unconditional half (null text), or of the source (text embedding). `ends` are those of the
    trajectory it was learnt on, where that is known.
    """

    scale: Tensor
    shift: Tensor
    guidance: float
    prompt: str
    fingerprint: str
    losses: tuple[InnerLoss, ...]
    kind: str = VALUE_EMBEDDING
    ends: Tensor | None = None

    @property
    def steps(self) -> int:
        """N."""
        return len(self.scale)


def require_own_embedding(trajectory: Trajectory, embedding: ValueEmbedding) -> None:
    """Raise ValueError unless an embedding was learnt for this picture, prompt and steps.

    Warn where it was learnt on another walk of the same picture.
    """
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
    _require_own_ends(trajectory, embedding)


def _require_own_ends(trajectory: Trajectory, embedding: ValueEmbedding) -> None:
    if embedding.ends is None:
        return
    same_size = embedding.ends.shape[1:] == trajectory.latents.shape[1:]
    off = [_difference(*pair) for pair in zip(trajectory.ends, embedding.ends, strict=True)
           ] if same_size else [math.inf]
    if off[0] > SAME_END:
        raise ValueError(
            f"the {embedding.kind} was learnt for another picture, though with the same prompt and "
            f"steps; run {KINDS[embedding.kind]} on this trajectory"
        )
    if off[1] > SAME_END:
        log.warning(
            "the %s was learnt on another inversion of the same picture, under another model, LoRA "
            "or ControlNet, so the picture may not come back; run %s on this trajectory",
            embedding.kind, KINDS[embedding.kind])


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """|a - b| / |b|; what only rounding moved is far below `SAME_END`."""
    off = torch.linalg.vector_norm(ours - theirs)
    return float(off / torch.linalg.vector_norm(theirs).clamp_min(1e-12))
