"""What travels between the nodes: plain data on the CPU, cached by the host between runs."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layers import AttentionLayer
from .schedule import Levels

Conditioning = list[tuple[Tensor, dict[str, Any]]]
log = logging.getLogger("stylediffusion")
SAME_END = 0.05  # what only rounding moved is far below

CONDITIONAL, UNCONDITIONAL = 0, 1
VALUE_EMBEDDING, NULL_TEXT, TEXT_EMBEDDING = "value embedding", "null text", "text embedding"
PROMPT_BRANCHES = {NULL_TEXT: UNCONDITIONAL, TEXT_EMBEDDING: CONDITIONAL}
"""The branch of guidance whose prompt each kind of prompt embedding stands in for."""


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


@dataclass(frozen=True, kw_only=True)
class Embedding(ABC):
    """What was learnt for each sampling step of a trajectory, and how it was learnt.

    `ends` are those of the trajectory, where they are known.
    """

    guidance: float
    prompt: str
    fingerprint: str
    losses: tuple[InnerLoss, ...] = ()
    ends: Tensor | None = None

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is called, in files and in messages."""

    @property
    @abstractmethod
    def node(self) -> str:
        """The node that learns it."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """N."""


@dataclass(frozen=True)
class ValueEmbedding(Embedding):
    """Scale s and shift b, fp32 [N, 77, d]: c * s + b is the value input of the conditional half.
    """

    scale: Tensor
    shift: Tensor
    kind = VALUE_EMBEDDING
    node = "Learn Value Embedding"

    @property
    def steps(self) -> int:
        """N."""
        return len(self.scale)


@dataclass(frozen=True)
class PromptEmbedding(Embedding):
    """Prompts, fp32 [N, 77, d], that stand in for one of two: key and value input of its branch.

    A null text is that of the whole unconditional half; a text embedding that of the source alone.
    """

    contexts: Tensor
    branch: int
    node = "Learn Prompt Embedding"

    @property
    def kind(self) -> str:
        """What it is called, in files and in messages."""
        return NULL_TEXT if self.branch == UNCONDITIONAL else TEXT_EMBEDDING

    @property
    def steps(self) -> int:
        """N."""
        return len(self.contexts)


def require_own_embedding(trajectory: Trajectory, embedding: Embedding) -> None:
    """Raise ValueError unless an embedding was learnt for this picture, prompt and steps.

    Warn where it was learnt on another walk of the same picture.
    """
    if embedding.steps != trajectory.steps:
        raise ValueError(
            f"the {embedding.kind} was learnt over {embedding.steps} steps, but the trajectory has "
            f"{trajectory.steps}; run {embedding.node} on this trajectory"
        )
    if embedding.prompt != trajectory.prompt:
        raise ValueError(
            f"the {embedding.kind} was learnt for the prompt '{embedding.prompt}', but the "
            f"trajectory was inverted with '{trajectory.prompt}'; run {embedding.node} on "
            "this trajectory"
        )
    _require_own_ends(trajectory, embedding)


def _require_own_ends(trajectory: Trajectory, embedding: Embedding) -> None:
    if embedding.ends is None:
        return
    same_size = embedding.ends.shape[1:] == trajectory.latents.shape[1:]
    off = [relative_difference(*pair) for pair in zip(trajectory.ends, embedding.ends, strict=True)
           ] if same_size else [math.inf]
    if off[0] > SAME_END:
        raise ValueError(
            f"the {embedding.kind} was learnt for another picture, though with the same prompt and "
            f"steps; run {embedding.node} on this trajectory"
        )
    if off[1] > SAME_END:
        log.warning(
            "the %s was learnt on another inversion of the same picture, under another model, LoRA "
            "or ControlNet, so the picture may not come back; run %s on this trajectory",
            embedding.kind, embedding.node)


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """|a - b| / |b| of tensors on one device."""
    off = torch.linalg.vector_norm(found - wanted)
    return float(off / torch.linalg.vector_norm(wanted).clamp_min(1e-12))
