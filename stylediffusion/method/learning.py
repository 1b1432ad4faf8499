"""Learning embeddings, step by step from the noise down (section 3.3, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import InnerLoss
from .ddim import guide, transfer
from .schedule import Levels

REMEDY = ("run the model in bf16 or fp32 (--bf16-unet, --fp32-unet), or lower learning_rate (the "
          "preset fast has none)")


@dataclass(frozen=True)
class LearningSettings:
    """The constants of the released code, then those of the fast preset.

    The evaluations are the most a step may take: the first, those between, the closing ones (a
    share of all, but no fewer than a number) and the last, whose coefficient is so small that it
    mends little. `good_enough` is where it stops: losses in units of the conditional noise.
    """

    guidance: float = 7.5
    inner_steps: int = 100
    inner_decay: float = 0.1
    learning_rate: float = 1e-2
    attention_weight: float = 1.0
    stop_loss: float = 1e-5
    stop_loss_growth: float = 2e-5
    evaluations: int = 16
    first_evaluations: int = 12
    closing_evaluations: int = 9
    last_evaluations: int = 6
    good_enough: float = 3e-2
    good_enough_closing: float = 1e-4
    closing: float = 1 / 6
    closing_steps: int = 5

    def inner_steps_at(self, step: int) -> int:
        """ceil(100 * exp(-0.1 * i)), at least one."""
        return max(1, math.ceil(self.inner_steps * math.exp(-self.inner_decay * step)))

    def most_evaluations(self, step: int, steps: int, fast: bool) -> int:
        """The most a step may take, of either preset."""
        if not fast:
            return self.inner_steps_at(step)
        if step in (0, steps - 1):
            return self.last_evaluations if step else self.first_evaluations
        return self.closing_evaluations if self.closes(step, steps) else self.evaluations

    def closes(self, step: int, steps: int) -> bool:
        """Whether a step is one of the last few, which decide the picture."""
        return step >= steps - max(self.closing_steps, math.ceil(self.closing * steps))

    def good_enough_at(self, step: int, steps: int) -> float:
        """Where the fast preset stops. Every step aims at the trajectory itself, so that a later
        one makes good what an earlier left; only the last few decide the picture."""
        return self.good_enough_closing if self.closes(step, steps) else self.good_enough

    def learning_rate_at(self, step: int) -> float:
        """1e-2 * (1 - i / 100); never below a hundredth of the start, for more than 100 steps."""
        return self.learning_rate * max(0.01, 1 - step / 100)

    def stop_loss_at(self, step: int) -> float:
        """1e-5 + 2e-5 * i: good enough to go on to the next step."""
        return self.stop_loss + self.stop_loss_growth * step


class LearningModel(Protocol):
    """What learning needs of a UNet; latents in VP units, fp32."""

    def fixed(self, latent: Tensor, level: int) -> Tensor:
        """eps under the prompt that hears nothing of what is learnt; needs no gradient."""
        ...

    def hearing(
        self, latent: Tensor, level: int, scale: Tensor | None, shift: Tensor | None, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """eps under the prompt that hears c * s + b, and, where asked for, the conditional
        cross-attention maps [heads, h * w, tokens] of the supervising layers."""
        ...

    def weight(self, guidance: float) -> float:
        """The share of `hearing` in guided noise: w of the source prompt, 1 - w of the other."""
        ...

    def gradient_scale(self, latent: Tensor) -> float:
        """What a loss is multiplied by on its way back to a latent's noise, 1 in fp32."""
        ...


Note = Callable[[InnerLoss], None]


class Watch:
    """Sees a learning run from outside; by itself it does nothing."""

    def after_inner(self, loss: InnerLoss) -> None:
        """Every loss, before the update it leads to."""

    def after_step(self, step: int, latent: Tensor, noise: Tensor) -> None:
        """The latent a finished step sampled from and the guided noise found there."""

    def keep(self, learnt: Learnt) -> None:
        """The run up to a finished step, for a later run to go on from."""


@dataclass
class Learnt:
    """Learning up to its last finished step k; finished where k = N.

    Scale and shift tables fp32 [k, 77, d], on the CPU once it is finished; the latent reached
    [1, C, h, w] (VP), all losses, and what the solver goes on from.
    """

    scale: Tensor
    shift: Tensor
    latent: Tensor
    losses: list[InnerLoss] = field(default_factory=list)
    solver: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """k, the number of finished steps."""
        return len(self.scale)


def supervising_entry(step: int, steps: int) -> int:
    """Which entry of the inversion supervises a learning step: N - i, and N - 1 for step 0."""
    return min(steps - step, steps - 1)


def attention_loss(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The plain sum over layers of the mean squared difference of maps."""
    losses = [F.mse_loss(a, b) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(losses).sum()


@dataclass
class LearningStep:
    """One sampling step being learnt: the latent it starts from and what it must reach.

    `alphas` are alpha-bar of its level and of the one below.
    """

    index: int
    level: int
    alphas: tuple[float, float]
    latent: Tensor
    noise_fixed: Tensor
    wanted_latent: Tensor
    wanted_maps: list[Tensor]

    def losses(
        self, reached: Tensor, found: list[Tensor], attention_weight: float
    ) -> tuple[Tensor, Tensor]:
        """MSE(z', z of the trajectory), and the weighted sum over layers of MSE(a', a)."""
        loss_latent = F.mse_loss(reached, self.wanted_latent)
        if not self.wanted_maps:
            return loss_latent, loss_latent.new_zeros(())
        return loss_latent, attention_weight * attention_loss(found, self.wanted_maps)

    def evaluate(
        self, model: LearningModel, values: tuple[Tensor, Tensor], guidance: float, maps: bool
    ) -> tuple[Solution, list[Tensor]]:
        """Where c * s + b leads when it is heard, and the maps on the way."""
        noise_hearing, found = model.hearing(self.latent, self.level, *values, maps)
        noise = guide(self.noise_fixed, noise_hearing, model.weight(guidance))
        reached = transfer(self.latent, noise, *self.alphas)
        return Solution(*values, reached, noise), found


@dataclass(frozen=True)
class Solution:
    """A step's scale and shift [77, d], the latent [1, C, h, w] reached with them, and the guided
    noise on the way."""

    scale: Tensor
    shift: Tensor
    latent: Tensor
    noise: Tensor

    def detached(self) -> Solution:
        """The same, without a graph."""
        return Solution(self.scale.detach(), self.shift.detach(), self.latent.detach(),
                        self.noise.detach())


class Solver(Protocol):
    """Finds one step's embedding after another; each starts from the last."""

    def solve(
        self, model: LearningModel, step: LearningStep, steps: int, note: Note
    ) -> Solution:
        """A step of so many; every loss goes to `note` before the update it leads to."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What the next step starts from, in tensors that later steps leave alone."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        ...


def learn(
    model: LearningModel,
    latents: Tensor,
    levels: Levels,
    solver: Solver,
    settings: LearningSettings,
    watch: Watch | None = None,
    begun: Learnt | None = None,
) -> Learnt:
    """Learn one embedding a step so that guided DDIM sampling from z_N retraces the trajectory.

    `latents` VP [N + 1, C, h, w]; `begun` is an earlier run to go on from. Raises
    FloatingPointError naming the step when a loss, or the latent a step reaches, is not finite.
    """
    watch = watch or Watch()
    learnt = begun or Learnt(torch.empty(0), torch.empty(0), latents[levels.steps :])
    learnt = replace(learnt, scale=learnt.scale.to(latents), shift=learnt.shift.to(latents))
    if begun is not None:
        solver.restore(begun.solver)
    losses = list(learnt.losses)

    def note(loss: InnerLoss) -> None:
        require_finite(loss, levels.steps)
        losses.append(loss)
        watch.after_inner(loss)

    for i in range(learnt.steps, levels.steps):
        step = _begin(model, latents, levels, learnt.latent.to(latents), i, settings)
        found = solver.solve(model, step, levels.steps, note).detached()
        learnt = Learnt(
            torch.cat((learnt.scale, found.scale[None])),
            torch.cat((learnt.shift, found.shift[None])), found.latent, list(losses),
            solver.state())
        watch.after_step(i, step.latent, found.noise)
        watch.keep(learnt)
    return replace(learnt, scale=learnt.scale.cpu(), shift=learnt.shift.cpu())


def _begin(
    model: LearningModel, latents: Tensor, levels: Levels, latent: Tensor, i: int,
    settings: LearningSettings,
) -> LearningStep:
    level = levels.steps - i
    with torch.no_grad():
        noise_fixed = model.fixed(latent, level)
    wanted_maps = _wanted_maps(model, latents, i, levels.steps, settings)
    return LearningStep(i, level, (levels.alpha(level), levels.alpha(level - 1)), latent,
                        noise_fixed, latents[level - 1 : level], wanted_maps)


def _wanted_maps(
    model: LearningModel, latents: Tensor, step: int, steps: int, settings: LearningSettings
) -> list[Tensor]:
    """The maps of the supervising entry, seen again by one forward on the latent it was seen on."""
    if settings.attention_weight == 0:
        return []
    entry = supervising_entry(step, steps)
    with torch.no_grad():
        _, maps = model.hearing(latents[entry : entry + 1], entry + 1, None, None, True)
    return maps


def require_finite(loss: InnerLoss, steps: int) -> None:
    """Raise FloatingPointError naming the step and the remedy where a loss is not finite."""
    if not math.isfinite(loss.total):
        raise FloatingPointError(
            f"the loss is not finite at step {loss.step + 1} of {steps}, inner step "
            f"{loss.inner + 1}; {REMEDY}")


def require_finite_gradient(finite: bool, step: int, steps: int) -> None:
    """The same where a gradient overflows whatever the loss is scaled by."""
    if not finite:
        raise FloatingPointError(
            f"the gradient is not finite at step {step + 1} of {steps}; {REMEDY}")


def require_finite_latent(latent: Tensor, step: int, steps: int) -> None:
    """The same where the last update of a step, which no loss has seen, leads nowhere."""
    if not torch.isfinite(latent).all():
        raise FloatingPointError(
            f"the latent is not finite after step {step + 1} of {steps}; {REMEDY}")
