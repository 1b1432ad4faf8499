"""The authors' way: Adam on a mapping network M_t, a fresh optimiser for every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import InnerLoss
from .learning import (
    LearningModel,
    LearningStep,
    Note,
    Solution,
    require_finite_gradient,
    require_finite_latent,
)
from .loss_scale import LOSS_SCALE, LossScale, gradients_of
from .value_embedding import Mapping, successor


@dataclass(frozen=True)
class AdamSchedule:
    """The constants of the released code."""

    inner_steps: int = 100
    inner_decay: float = 0.1
    learning_rate: float = 1e-2
    stop_loss: float = 1e-5
    stop_loss_growth: float = 2e-5

    def inner_steps_at(self, step: int) -> int:
        """ceil(100 * exp(-0.1 * i)), at least one."""
        return max(1, math.ceil(self.inner_steps * math.exp(-self.inner_decay * step)))

    def most_evaluations(self, step: int, steps: int) -> int:
        """The most losses that a step of so many sees, as for every schedule."""
        return self.inner_steps_at(step)

    def learning_rate_at(self, step: int) -> float:
        """1e-2 * (1 - i / 100); never below a hundredth of the start, for more than 100 steps."""
        return self.learning_rate * max(0.01, 1 - step / 100)

    def stop_loss_at(self, step: int) -> float:
        """1e-5 + 2e-5 * i: good enough to go on to the next step."""
        return self.stop_loss + self.stop_loss_growth * step


class AdamSolver:
    """A fresh Adam a step on M_i, which starts as a copy of M_(i-1)."""

    def __init__(
        self, mapping: Mapping, image_tokens: Tensor | None, schedule: AdamSchedule
    ) -> None:
        self.mapping, self.image_tokens, self.schedule = mapping, image_tokens, schedule
        self.loss_scale = LossScale()

    def solve(self, model: LearningModel, step: LearningStep, note: Note) -> Solution:
        """Adam until a loss is good enough; that loss's update is the last."""
        schedule, i = self.schedule, step.index
        self.mapping = successor(self.mapping)
        optimizer = torch.optim.Adam(self.mapping.parameters(), lr=schedule.learning_rate_at(i))
        for inner in range(schedule.inner_steps_at(i)):
            loss = self.inner_step(model, step, optimizer, inner, note)
            if loss.total < schedule.stop_loss_at(i):
                break
        with torch.no_grad():
            solution, _ = step.evaluate(model, *self.mapping(self.image_tokens))
        require_finite_latent(solution.latent, i, step.steps)
        return solution

    def inner_step(
        self, model: LearningModel, step: LearningStep, optimizer: torch.optim.Optimizer,
        inner: int, note: Note,
    ) -> InnerLoss:
        """Forward, both losses, backward, one read of what was found, one update of M."""
        whole = model.gradient_scale(step.latent)
        loss, finite, gradients = self._differentiated(model, step, inner, whole)
        note(loss)
        while not finite:
            require_finite_gradient(self.loss_scale.lower(whole), step.index, step.steps)
            _, finite, gradients = self._differentiated(model, step, inner, whole)
        for leaf, gradient in zip(self.mapping.parameters(), gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
        return loss

    def _differentiated(
        self, model: LearningModel, step: LearningStep, inner: int, whole: float
    ) -> tuple[InnerLoss, bool, list[Tensor]]:
        """The loss, its gradients, and whether those are finite, where fp16 asks for a scale."""
        scale, shift = self.mapping(self.image_tokens)
        solution, maps = step.evaluate(model, scale, shift, bool(step.wanted_maps))
        parts = step.latent_losses(solution.latent)[0], step.attention_loss(maps)
        gradients = gradients_of(
            parts[0] + parts[1], list(self.mapping.parameters()), self.loss_scale.of(whole))
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
