"""The fast way: quasi-Newton on the scale and shift themselves, of one picture or of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .data import InnerLoss
from .lbfgs import Curvature, Descent, Evaluation, Point, descend, in_lock_step
from .learning import (
    LearningModel,
    LearningRun,
    LearningStep,
    Learnt,
    Note,
    Solution,
    joint_step,
    require_finite_gradient,
)
from .loss_scale import LOSS_SCALE, LossScale

ModelOf = Callable[[Sequence[int]], LearningModel]
"""The model under the prompts of some of several pictures."""


@dataclass(frozen=True)
class QuasiNewtonSchedule:
    """The most evaluations a step may take, and the losses that are good enough to stop at.

    The first step, those between, the closing ones (a share of all, but no fewer than a number) and
    the last, whose coefficient is so small that it mends little. Losses are in units of the noise
    that is learnt.
    """

    evaluations: int = 16
    first_evaluations: int = 12
    closing_evaluations: int = 9
    last_evaluations: int = 6
    good_enough: float = 3e-2
    good_enough_closing: float = 1e-4
    closing: float = 1 / 6
    closing_steps: int = 5

    def most_evaluations(self, step: int, steps: int) -> int:
        """The most losses that a step of so many sees."""
        if step in (0, steps - 1):
            return self.last_evaluations if step else self.first_evaluations
        return self.closing_evaluations if self.closes(step, steps) else self.evaluations

    def closes(self, step: int, steps: int) -> bool:
        """Whether a step is one of the last few, which decide the picture."""
        return step >= steps - max(self.closing_steps, math.ceil(self.closing * steps))

    def good_enough_at(self, step: int, steps: int) -> float:
        """Where a step stops. Every step aims at the trajectory itself, so that a later one makes
        good what an earlier left; only the last few decide the picture."""
        return self.good_enough_closing if self.closes(step, steps) else self.good_enough


class QuasiNewtonSolver:
    """L-BFGS on coordinates of (s, b), warm-started with its curvature; it sees no maps.

    `values` gives (s, b) at a point, differentiably; the first step begins at `start`. The loss is
    taken in units of the noise that is learnt, in which levels are alike: with
    z' = A z + B (eps + w (eps_with - eps)) it is divided by (B w)^2.
    """

    def __init__(
        self, start: Tensor, values: Callable[[Tensor], tuple[Tensor, Tensor]],
        schedule: QuasiNewtonSchedule,
    ) -> None:
        self.point, self.values, self.schedule = start, values, schedule
        self.curvature, self.loss_scale = Curvature(start), LossScale()

    def solve(self, model: LearningModel, step: LearningStep, note: Note) -> Solution:
        """A few evaluations; the best is kept, with the latent it reached."""
        return solve_together(lambda _: model, [Search(self, step, note)])[0]

    def state(self) -> dict[str, Tensor]:
        """The last step's point and what is known of the curvature."""
        return {"point": self.point, "pairs": self.curvature.pairs,
                "grams": self.curvature.grams, LOSS_SCALE: torch.tensor(self.loss_scale.lowered)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.point, self.curvature.pairs = (
            state[name].to(self.point) for name in ("point", "pairs"))
        self.curvature.grams = state["grams"]
        self.loss_scale.lowered = int(state[LOSS_SCALE])


@dataclass
class Search:
    """One picture's search at one step, and the best that it has seen."""

    solver: QuasiNewtonSolver
    step: LearningStep
    note: Note
    best: Solution | None = None
    lowest: float = math.inf
    count: int = 0

    def descent(self, whole: float) -> Descent:
        """Its steps; `whole` is the scale of the loss that the model asks for."""
        solver, step, schedule = self.solver, self.step, self.solver.schedule
        return descend(
            solver.point.flatten(), solver.curvature,
            schedule.most_evaluations(step.index, step.steps),
            schedule.good_enough_at(step.index, step.steps), lambda: self.lower(whole))

    def lower(self, whole: float) -> None:
        """Lower the scale of the loss, for good."""
        lowered = self.solver.loss_scale.lower(whole)
        require_finite_gradient(lowered, self.step.index, self.step.steps)

    def see(self, latent_loss: float, unit: float, solution: Solution) -> float:
        """Note a loss and keep the best; gives it in units of the noise."""
        self.note(InnerLoss(self.step.index, self.count, latent_loss, 0.0))
        self.count += 1
        loss = latent_loss / unit**2
        if loss < self.lowest:
            self.best, self.lowest = solution, loss
        return loss


class Slopes:
    """The gradients of losses [n], each in a leaf of its own, by one backward pass, which the first
    that is asked for makes. Losses count `unit` each, and on their way back `scales` times that."""

    def __init__(
        self, losses: Tensor, leaves: list[Tensor], unit: float, scales: list[float]
    ) -> None:
        self.losses: Tensor | None = losses
        self.leaves, self.unit, self.scales = leaves, unit, scales
        self.gradients: list[Tensor] = []

    def __call__(self, row: int) -> Tensor:
        """The gradient [m] of one loss."""
        if self.losses is not None:
            weights = self.losses.new_tensor([self.unit * scale for scale in self.scales])
            self.gradients = list(torch.autograd.grad(self.losses, self.leaves, weights))
            self.losses = None
        gradient, scale = self.gradients[row].flatten(), self.scales[row]
        return gradient if scale == 1 else gradient / scale


@dataclass
class Evaluations:
    """A step's evaluations, of all pictures that ask for one at the same time: one forward pass,
    one read, and one backward pass where any of them goes on from there."""

    model_of: ModelOf
    searches: Sequence[Search]
    rows: tuple[int, ...] = ()
    model: LearningModel = field(init=False)
    step: LearningStep = field(init=False)

    def __call__(self, asked: dict[int, Point]) -> dict[int, Evaluation]:
        """The losses at points, which are read, and what computes their gradients."""
        searches = [self.searches[row] for row in asked]
        self._choose(tuple(asked))
        leaves = [point.at.detach().view_as(search.solver.point).requires_grad_(True)
                  for point, search in zip(asked.values(), searches, strict=True)]
        scale, shift = map(torch.stack, zip(*(
            search.solver.values(leaf) for search, leaf in zip(searches, leaves, strict=True)),
            strict=True))
        solution, _ = self.step.evaluate(self.model, scale, shift)
        losses, solution = self.step.latent_losses(solution.latent), solution.detached()
        unit = noise_coefficient(*self.step.alphas) * self.model.weight(
            self.step.settings.guidance)
        scales = [search.solver.loss_scale.of(self.model.gradient_scale(search.step.latent))
                  for search in searches]
        slopes = Slopes(losses, leaves, unit**-2, scales)
        answers: dict[int, Evaluation] = {}
        for place, (row, loss) in enumerate(zip(asked, losses.tolist(), strict=True)):
            search = searches[place]
            known = search.lowest if asked[row].again else search.see(
                loss, unit, solution.of_picture(place))
            answers[row] = known, partial(slopes, place)
        return answers

    def _choose(self, rows: tuple[int, ...]) -> None:
        """Those that are done leave the batch."""
        if rows != self.rows:
            self.rows, self.model = rows, self.model_of(rows)
            self.step = joint_step([self.searches[row].step for row in rows])


def solve_together(model_of: ModelOf, searches: Sequence[Search]) -> list[Solution]:
    """The same step of several pictures, each by itself but for the passes, which they share."""
    evaluations, solutions = Evaluations(model_of, searches), []
    descents = [search.descent(model_of((row,)).gradient_scale(search.step.latent))
                for row, search in enumerate(searches)]
    results = in_lock_step(descents, evaluations)
    for search, (point, _) in zip(searches, results, strict=True):
        search.solver.point = point.view_as(search.solver.point)
        assert search.best is not None
        solutions.append(search.best)
    return solutions


def learn_together(
    model_of: ModelOf, runs: Sequence[LearningRun[QuasiNewtonSolver]]
) -> list[Learnt]:
    """As `learn`, several pictures of one size over the same levels.

    One that has got further waits for the others. Raises FloatingPointError naming the step where a
    loss or a gradient is not finite.
    """
    for index in range(runs[0].levels.steps):
        rows = [row for row, run in enumerate(runs) if run.index == index]
        if rows:
            _step_together(_among(model_of, rows), [runs[row] for row in rows])
    return [run.result() for run in runs]


def _among(model_of: ModelOf, rows: Sequence[int]) -> ModelOf:
    return lambda chosen: model_of([rows[i] for i in chosen])


def _step_together(model_of: ModelOf, runs: Sequence[LearningRun[QuasiNewtonSolver]]) -> None:
    """The next step of pictures that have all got as far."""
    with torch.no_grad():
        noises = model_of(range(len(runs))).noise(
            torch.cat([run.learnt.latent for run in runs]), runs[0].levels.steps - runs[0].index)
    searches = [Search(run.solver, run.begin(noise, []), run.note)
                for run, noise in zip(runs, noises.split(1), strict=True)]
    solutions = solve_together(model_of, searches)
    for run, search, solution in zip(runs, searches, solutions, strict=True):
        run.finish(search.step, solution)


def noise_coefficient(alpha_from: float, alpha_to: float) -> float:
    """B of a DDIM move between two noise levels: z' = A z + B eps."""
    return (1 - alpha_to) ** 0.5 - (alpha_to * (1 - alpha_from) / alpha_from) ** 0.5
