"""P2Plus: what a sampling step does to each row, and value mixing in place of map editing.

Section 3.4 of the paper. Because attention is linear in the value rows, an edited map never has to
exist: (A_source P) v = A_source (P v). See `mixed_values`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .alignment import Alignment
from .artifacts import Conditioning

SELF_FACTOR = 2
SELF_TOKENS = 1024


@dataclass(frozen=True)
class Window:
    """A share of the steps, from `start` to `end`, both in 0..1."""

    start: float
    end: float

    def holds_value(self, step: int, steps: int) -> bool:
        """The value window: i < N * tau_v, without rounding."""
        return steps * self.start <= step < steps * self.end

    def holds_cross(self, step: int, steps: int) -> bool:
        """The cross-attention window: int(lo * (N + 1)) <= i < int(hi * (N + 1))."""
        return int(self.start * (steps + 1)) <= step < int(self.end * (steps + 1))

    def holds_self(self, step: int, steps: int) -> bool:
        """The self-attention windows: int(N * lo) <= i < int(N * hi)."""
        return int(steps * self.start) <= step < int(steps * self.end)


@dataclass(frozen=True)
class Target:
    """One edit: its prompt as conditioning, and how its tokens align with the source's."""

    prompt: str
    mode: str
    conditioning: Conditioning
    alignment: Alignment


@dataclass(frozen=True)
class Control:
    """Everything P2Plus Controller decides; windows are tau_v, tau_c, tau_s and tau_u."""

    source_prompt: str
    targets: tuple[Target, ...]
    tau_v: Window
    tau_c: Window
    tau_s: Window
    tau_u: Window

    @property
    def needs_own_maps(self) -> bool:
        """Whether some target token keeps its own map (Refine): two attentions instead of one."""
        return any(not target.alignment.is_complete for target in self.targets)

    def mappers(self) -> Tensor:
        """P of all targets [targets, source tokens, target tokens]."""
        return torch.stack([target.alignment.mapper for target in self.targets])

    def aligned(self) -> Tensor:
        """r of all targets [targets, target tokens]."""
        return torch.stack([target.alignment.aligned for target in self.targets])


def injects_self_attention(tokens: int, factor: float) -> bool:
    """Layers whose self-attention is injected: factor at least 2, or at most 1,024 tokens."""
    return factor >= SELF_FACTOR or tokens <= SELF_TOKENS


def mixed_values(
    values: Tensor, mapper: Tensor, aligned: Tensor
) -> tuple[Tensor, Tensor]:
    """Split target values [n, T, d] into what the source's map and the target's own map hear.

    With A_edited = (A_source P) diag(r) + A_target diag(1 - r), the edited output is
    A_source @ first + A_target @ second, first = P diag(r) v and second = diag(1 - r) v.
    """
    kept = aligned.to(values).unsqueeze(-1)
    return mapper.to(values) @ (kept * values), (1 - kept) * values
