"""P2Plus: which words of an edit have the maps of the source at which steps, and how strongly.

Section 3.4 of the paper. Because attention is linear in the value rows, an edited map never has to
exist: (A_source P) v = A_source (P v). See `edit_plan`.

Prompts of several chunks of 77 tokens run beside shorter ones, which the host then repeats. A map
over repeated tokens sums to the map over them once, so all that concerns tokens is folded to the
length of the run: the source's repeated, the target's once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import Alignment
from .data import Conditioning
from .local_blend import Blend

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


HOLDS = {
    "tau_v": Window.holds_value, "tau_c": Window.holds_cross,
    "tau_s": Window.holds_self, "tau_u": Window.holds_self,
}
TAUS = tuple(HOLDS)


@dataclass(frozen=True)
class WordWindow:
    """A cross-attention window of its own for some tokens of a target."""

    positions: tuple[int, ...]
    window: Window


@dataclass(frozen=True)
class WordMasks:
    """Which tokens a local blend reads: masks over source and over target tokens, fp32 [T]."""

    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class Target:
    """One edit: its prompt as conditioning, how its tokens align with the source's, and options.

    `emphasis` fp32 [T] is a factor for each token's edited map; `blend` and `subtract` say where
    the edit may show, or `mask` fp32 [h, w] in their place; None means everywhere. `windows`, by
    the name of the tau, stand in for those of the control.
    """

    prompt: str
    mode: str
    conditioning: Conditioning
    alignment: Alignment
    emphasis: Tensor | None = None
    word_windows: tuple[WordWindow, ...] = ()
    blend: WordMasks | None = None
    subtract: WordMasks | None = None
    windows: Mapping[str, Window] = field(default_factory=dict)
    mask: Tensor | None = None

    def weights(self, tau_c: Window, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """(w r e, w (1 - r) e + 1 - w) over target tokens: what each map's columns weigh.

        w is 1 where the token's window holds this step, r 1 where it is aligned, e its emphasis.
        """
        aligned = self.alignment.aligned
        emphasis = torch.ones_like(aligned) if self.emphasis is None else self.emphasis
        held = torch.full_like(aligned, float(tau_c.holds_cross(step, steps)))
        for word in self.word_windows:
            held[list(word.positions)] = float(word.window.holds_cross(step, steps))
        return held * aligned * emphasis, held * (1 - aligned) * emphasis + 1 - held


@dataclass(frozen=True)
class Control:
    """Everything P2Plus Controller decides; the windows are those of targets without their own."""

    source_prompt: str
    targets: tuple[Target, ...]
    tau_v: Window
    tau_c: Window
    tau_s: Window
    tau_u: Window
    blend: Blend = Blend()

    @property
    def blends(self) -> bool:
        """Whether any edit is kept to a place."""
        return self.reads_words or any(target.mask is not None for target in self.targets)

    @property
    def reads_words(self) -> bool:
        """Whether any edit is kept to where words look."""
        return bool(self.word_targets)

    @property
    def word_targets(self) -> list[int]:
        """The targets that are kept to where words look; a painted mask goes before words."""
        return [i for i, target in enumerate(self.targets)
                if target.blend is not None and target.mask is None]

    def window(self, tau: str, target: Target) -> Window:
        """The window of tau_v, tau_c, tau_s or tau_u that a target has."""
        shared: Window = getattr(self, tau)
        return target.windows.get(tau, shared)

    def held(self, tau: str, steps: int) -> Tensor:
        """Which targets' windows of a tau hold which steps: bool [N, targets]."""
        windows = [self.window(tau, target) for target in self.targets]
        return torch.tensor(
            [[HOLDS[tau](window, i, steps) for window in windows] for i in range(steps)])

    @property
    def tokens(self) -> int:
        """L: how many tokens each row has when prompts of all these lengths run together."""
        return math.lcm(*(n for target in self.targets for n in target.alignment.mapper.shape))

    def mappers(self) -> Tensor:
        """P of all targets [targets, L, L]: source tokens repeated, target tokens once."""
        return torch.stack([
            once(repeated(target.alignment.mapper.T, self.tokens).T, self.tokens)
            for target in self.targets])

    def weights(self, steps: int) -> tuple[Tensor, Tensor]:
        """The two column weights of every step and target, [N, targets, L] each.

        Those of the source's map reach every target token once, those of the own map all repeats.
        """
        rows = [[target.weights(self.window("tau_c", target), i, steps) for target in self.targets]
                for i in range(steps)]
        first = [torch.stack([once(pair[0], self.tokens) for pair in row]) for row in rows]
        second = [torch.stack([repeated(pair[1], self.tokens) for pair in row]) for row in rows]
        return torch.stack(first), torch.stack(second)


def repeated(values: Tensor, length: int) -> Tensor:
    """Values [..., T] of tokens for every repeat of them: [..., length]."""
    return values.repeat(*[1] * (values.ndim - 1), length // values.shape[-1])


def once(values: Tensor, length: int) -> Tensor:
    """Values [..., T] of tokens for their first repeat, 0 for the others: [..., length]."""
    return F.pad(values, (0, length - values.shape[-1]))


def injects_self_attention(tokens: int, width: int, full_width: int) -> bool:
    """Layers whose self-attention is injected: half the latent's grid or less, or 1,024 tokens.

    Half of an odd width is rounded up, as the UNet does.
    """
    return width <= math.ceil(full_width / SELF_FACTOR) or tokens <= SELF_TOKENS
