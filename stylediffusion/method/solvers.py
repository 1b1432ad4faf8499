"""How a step's embedding is found: the authors' Adam on M_t, or quasi-Newton on (s, b) itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import InnerLoss
from .lbfgs import Curvature, descend
from .learning import (
    LearningModel,
    LearningSettings,
    LearningStep,
    Note,
    Solution,
    require_finite_gradient,
    require_finite_latent,
)
from .loss_scale import LossScale, gradients_of
from .value_embedding import Mapping, successor

LOSS_SCALE = "loss_scale"


class NetworkSolver:
    """The released code's way: a fresh Adam a step on M_i, which starts as a copy of M_(i-1)."""

    def __init__(
        self, mapping: Mapping, image_tokens: Tensor | None, settings: LearningSettings
    ) -> None:
        self.mapping, self.image_tokens, self.settings = mapping, image_tokens, settings
        self.loss_scale = LossScale()

    def solve(
        self, model: LearningModel, step: LearningStep, steps: int, note: Note
    ) -> Solution:
        """Adam until a loss is good enough; that loss's update is the last."""
        settings, i = self.settings, step.index
        self.mapping = successor(self.mapping)
        optimizer = torch.optim.Adam(self.mapping.parameters(), lr=settings.learning_rate_at(i))
        for inner in range(settings.inner_steps_at(i)):
            loss = self.inner_step(model, step, steps, optimizer, inner, note)
            if loss.total < settings.stop_loss_at(i):
                break
        with torch.no_grad():
            values = self.mapping(self.image_tokens)
            found, _ = step.evaluate(model, values, settings.guidance, False)
        require_finite_latent(found.latent, i, steps)
        return found

    def inner_step(
        self, model: LearningModel, step: LearningStep, steps: int,
        optimizer: torch.optim.Optimizer, inner: int, note: Note,
    ) -> InnerLoss:
        """Forward, both losses, backward, one read of what was found, one update of M."""
        whole = model.gradient_scale(step.latent)
        loss, finite, gradients = self._differentiated(model, step, inner, whole)
        note(loss)
        while not finite:
            require_finite_gradient(self.loss_scale.lower(whole), step.index, steps)
            _, finite, gradients = self._differentiated(model, step, inner, whole)
        for leaf, gradient in zip(self.mapping.parameters(), gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
        return loss

    def _differentiated(
        self, model: LearningModel, step: LearningStep, inner: int, whole: float
    ) -> tuple[InnerLoss, bool, list[Tensor]]:
        """The loss, its gradients, and whether those are finite, where fp16 asks for a scale."""
        settings, scale = self.settings, self.loss_scale.of(whole)
        found, maps = step.evaluate(
            model, self.mapping(self.image_tokens), settings.guidance, bool(step.wanted_maps))
        parts = step.losses(found.latent, maps, settings.attention_weight)
        gradients = gradients_of(parts[0] + parts[1], list(self.mapping.parameters()), scale)
        known = [part.detach() for part in parts]
        if whole > 1:
            known.append(torch.stack([gradient.sum() for gradient in gradients]).sum())
        latent, attention, *sums = torch.stack(known).tolist()
        return InnerLoss(step.index, inner, latent, attention), all(
            map(math.isfinite, sums)), gradients

    def state(self) -> dict[str, Tensor]:
        """The network of the last step; every step's optimiser is its own."""
        return {**self.mapping.state_dict(), LOSS_SCALE: torch.tensor(self.loss_scale.lowered)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.loss_scale.lowered = int(state[LOSS_SCALE])
        self.mapping.load_state_dict({k: v for k, v in state.items() if k != LOSS_SCALE})


class QuasiNewtonSolver:
    """L-BFGS on coordinates of (s, b) themselves, warm-started with its curvature.

    `values` gives (s, b) at a point, differentiably; the first step begins at `start`. The loss is
    taken in units of the noise that is learnt, in which levels are alike: with
    z' = A z + B (eps_fixed + w (eps_hearing - eps_fixed)) it is divided by (B w)^2.
    """

    def __init__(
        self, start: Tensor, values: Callable[[Tensor], tuple[Tensor, Tensor]],
        settings: LearningSettings,
    ) -> None:
        self.point, self.values, self.settings = start, values, settings
        self.curvature, self.loss_scale = Curvature(start), LossScale()

    def solve(
        self, model: LearningModel, step: LearningStep, steps: int, note: Note
    ) -> Solution:
        """A few evaluations; the best is kept, with the latent it reached."""
        settings, i = self.settings, step.index
        evaluations = Evaluations(self, model, step, steps, note)
        point, _ = descend(evaluations, self.point.flatten(), self.curvature,
                           settings.most_evaluations(i, steps, True),
                           settings.good_enough_at(i, steps), evaluations.lower)
        self.point = point.view_as(self.point)
        assert evaluations.best is not None
        return evaluations.best

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
class Evaluations:
    """One step's evaluations as `descend` asks for them, and the best of them."""

    solver: QuasiNewtonSolver
    model: LearningModel
    step: LearningStep
    steps: int
    note: Note
    best: Solution | None = None
    lowest: float = math.inf
    count: int = 0
    again: bool = False

    def __call__(self, point: Tensor) -> tuple[float, Callable[[], Tensor]]:
        """The loss at a point, which is read, and what computes its gradient, which is not."""
        solver, step, settings = self.solver, self.step, self.solver.settings
        leaf = point.detach().view_as(solver.point).requires_grad_(True)
        found, maps = step.evaluate(
            self.model, solver.values(leaf), settings.guidance, bool(step.wanted_maps))
        parts = step.losses(found.latent, maps, settings.attention_weight)
        unit = noise_coefficient(*step.alphas) * self.model.weight(settings.guidance)
        loss = (parts[0] + parts[1]) / unit**2
        scale = solver.loss_scale.of(self.model.gradient_scale(step.latent))

        def slope() -> Tensor:
            return gradients_of(loss, [leaf], scale)[0].flatten()

        if self.again:
            self.again = False
            return self.lowest, slope
        read = InnerLoss(step.index, self.count, *torch.stack(parts).detach().tolist())
        self.note(read)
        self.count += 1
        if read.total / unit**2 < self.lowest:
            self.best, self.lowest = found.detached(), read.total / unit**2
        return read.total / unit**2, slope

    def lower(self) -> None:
        """Lower the scale of the loss; the next evaluation is the last one once more."""
        lowered = self.solver.loss_scale.lower(self.model.gradient_scale(self.step.latent))
        require_finite_gradient(lowered, self.step.index, self.steps)
        self.again = True


def noise_coefficient(alpha_from: float, alpha_to: float) -> float:
    """B of a DDIM move between two noise levels: z' = A z + B eps."""
    return (1 - alpha_to) ** 0.5 - (alpha_to * (1 - alpha_from) / alpha_from) ** 0.5
