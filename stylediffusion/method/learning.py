"""Learning embeddings, step by step from the noise down (section 3.3, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

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
    """What is learnt for, however it is found: the guidance of sampling, the attention loss."""

    guidance: float = 7.5
    attention_weight: float = 1.0


class LearningModel(Protocol):
    """What learning needs of a UNet; latents [n, C, h, w] in VP units, fp32."""

    def noise(self, latent: Tensor, level: int) -> Tensor:
        """eps of the branch in which nothing is learnt; needs no gradient."""
        ...

    def noise_with(
        self, latent: Tensor, level: int, scale: Tensor, shift: Tensor, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """eps of the other branch under c * s + b, tables [77, d] or [n, 77, d], and, where asked
        for, the `maps` on the way."""
        ...

    def maps(self, latent: Tensor, level: int) -> list[Tensor]:
        """The conditional cross-attention maps [heads, h * w, tokens] of the supervising layers
        with nothing learnt."""
        ...

    def weight(self, guidance: float) -> float:
        """The share of `noise_with` in guided noise: w of the source prompt, 1 - w of the other."""
        ...

    def gradient_scale(self, latent: Tensor) -> float:
        """What a loss is multiplied by on its way back to a latent's noise, 1 in fp32."""
        ...


Note = Callable[[InnerLoss], None]


class Watch:
    """Sees a learning run from outside; by itself it does nothing."""

    def before_step(self, step: LearningStep) -> None:
        """A step that begins."""

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


@dataclass(frozen=True)
class Solution:
    """A step's scale and shift, the latent reached with them, and the guided noise on the way.

    Tables [77, d] and latents [1, C, h, w], or a row of each for every picture.
    """

    scale: Tensor
    shift: Tensor
    latent: Tensor
    noise: Tensor

    def detached(self) -> Solution:
        """The same, without a graph."""
        return Solution(*(tensor.detach() for tensor in vars(self).values()))

    def of_picture(self, row: int) -> Solution:
        """That of one picture of several."""
        return Solution(self.scale[row], self.shift[row], self.latent[row : row + 1],
                        self.noise[row : row + 1])


@dataclass
class LearningStep:
    """One sampling step, the i-th of N, being learnt: where it starts and what it must reach.

    Latents [1, C, h, w], or a row for every picture; `noise` is that of the branch in
    which nothing is learnt. `alphas` are alpha-bar of its level and of the one below.
    """

    index: int
    steps: int
    level: int
    alphas: tuple[float, float]
    latent: Tensor
    noise: Tensor
    wanted_latent: Tensor
    wanted_maps: list[Tensor]
    settings: LearningSettings

    def evaluate(
        self, model: LearningModel, scale: Tensor, shift: Tensor, maps: bool = False
    ) -> tuple[Solution, list[Tensor]]:
        """Where c * s + b leads, and the maps on the way."""
        noise, recorded = model.noise_with(self.latent, self.level, scale, shift, maps)
        noise = guide(self.noise, noise, model.weight(self.settings.guidance))
        return Solution(scale, shift, transfer(self.latent, noise, *self.alphas), noise), recorded

    def latent_losses(self, reached: Tensor) -> Tensor:
        """MSE(z', z of the trajectory) of every picture [n]."""
        return F.mse_loss(reached, self.wanted_latent, reduction="none").flatten(1).mean(1)

    def attention_loss(self, maps: list[Tensor]) -> Tensor:
        """The weighted sum over layers of MSE(a', a); 0 where no maps are wanted."""
        if not self.wanted_maps:
            return self.latent.new_zeros(())
        return self.settings.attention_weight * attention_loss(maps, self.wanted_maps)


def joint_step(steps: Sequence[LearningStep]) -> LearningStep:
    """The same step of several pictures as one, without maps."""
    latent, noise, wanted = (
        torch.cat([getattr(step, name) for step in steps])
        for name in ("latent", "noise", "wanted_latent"))
    return replace(steps[0], latent=latent, noise=noise, wanted_latent=wanted, wanted_maps=[])


class Solver(Protocol):
    """Finds one step's embedding after another; each starts from the last."""

    def solve(self, model: LearningModel, step: LearningStep, note: Note) -> Solution:
        """Every loss goes to `note` before the update it leads to."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What the next step starts from, in tensors that later steps leave alone."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        ...


S = TypeVar("S", bound=Solver)


class LearningRun(Generic[S]):
    """One picture on its way: the trajectory it follows, how far it is, and who watches.

    `latents` VP [N + 1, C, h, w]; `begun` is an earlier run to go on from. `note` raises
    FloatingPointError naming the step where a loss is not finite.
    """

    def __init__(
        self, latents: Tensor, levels: Levels, solver: S, settings: LearningSettings,
        watch: Watch | None = None, begun: Learnt | None = None,
    ) -> None:
        self.latents, self.levels, self.settings = latents, levels, settings
        self.solver, self.watch = solver, watch or Watch()
        learnt = begun or Learnt(torch.empty(0), torch.empty(0), latents[levels.steps :])
        self.learnt = replace(
            learnt, scale=learnt.scale.to(latents), shift=learnt.shift.to(latents),
            latent=learnt.latent.to(latents))
        if begun is not None:
            solver.restore(begun.solver)
        self.losses = list(learnt.losses)

    @property
    def index(self) -> int:
        """The step that comes next; N where the run is finished."""
        return self.learnt.steps

    def begin(self, noise: Tensor, wanted_maps: list[Tensor]) -> LearningStep:
        """The next step, from the latent reached, where `LearningModel.noise` is this."""
        level, alpha = self.levels.steps - self.index, self.levels.alpha
        step = LearningStep(
            self.index, self.levels.steps, level, (alpha(level), alpha(level - 1)),
            self.learnt.latent, noise, self.latents[level - 1 : level], wanted_maps, self.settings)
        self.watch.before_step(step)
        return step

    def note(self, loss: InnerLoss) -> None:
        """One more loss."""
        require_finite(loss, self.levels.steps)
        self.losses.append(loss)
        self.watch.after_inner(loss)

    def finish(self, step: LearningStep, solution: Solution) -> None:
        """Go on to the next step from where a solution leads."""
        solution = solution.detached()
        self.learnt = Learnt(
            torch.cat((self.learnt.scale, solution.scale[None])),
            torch.cat((self.learnt.shift, solution.shift[None])), solution.latent,
            list(self.losses), self.solver.state())
        self.watch.after_step(step.index, step.latent, solution.noise)
        self.watch.keep(self.learnt)

    def result(self) -> Learnt:
        """What is learnt, its tables on the CPU, without what a solver would go on from."""
        return replace(self.learnt, scale=self.learnt.scale.cpu(), shift=self.learnt.shift.cpu(),
                       solver={})


def learn(model: LearningModel, run: LearningRun[S]) -> Learnt:
    """Learn one embedding a step so that guided DDIM sampling from z_N retraces the trajectory.

    Raises FloatingPointError naming the step when a loss, or the latent a step reaches, is not
    finite.
    """
    while run.index < run.levels.steps:
        with torch.no_grad():
            noise = model.noise(run.learnt.latent, run.levels.steps - run.index)
            wanted_maps = _wanted_maps(model, run)
        step = run.begin(noise, wanted_maps)
        run.finish(step, run.solver.solve(model, step, run.note))
    return run.result()


def _wanted_maps(model: LearningModel, run: LearningRun[S]) -> list[Tensor]:
    """The maps of the supervising entry, seen again by one forward on the latent it was seen on."""
    if run.settings.attention_weight == 0:
        return []
    entry = supervising_entry(run.index, run.levels.steps)
    return model.maps(run.latents[entry : entry + 1], entry + 1)


def supervising_entry(step: int, steps: int) -> int:
    """Which entry of the inversion supervises a learning step: N - i, and N - 1 for step 0."""
    return min(steps - step, steps - 1)


def attention_loss(maps: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The plain sum over layers of the mean squared difference of maps."""
    losses = [F.mse_loss(a, b) for a, b in zip(maps, wanted, strict=True)]
    return torch.stack(losses).sum()


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
