"""How a step's embedding is found: the authors' Adam on M_t, or quasi-Newton on (s, b) itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .gradients import gradients_of
from .learning import InnerLoss, LearningModel, LearningSettings, LearningStep, Note
from .mapping import Mapping, successor
from .quasi_newton import Curvature, descend
from .schedule import Levels

Solution = tuple[tuple[Tensor, Tensor], Tensor, Tensor]


class NetworkSolver:
    """The released code's way: a fresh Adam a step on M_i, which starts as a copy of M_(i-1)."""

    def __init__(
        self, mapping: Mapping, image_tokens: Tensor | None, settings: LearningSettings
    ) -> None:
        self.mapping, self.image_tokens, self.settings = mapping, image_tokens, settings

    def solve(
        self, model: LearningModel, levels: Levels, step: LearningStep, note: Note
    ) -> Solution:
        """Adam until a loss is good enough; that loss's update is the last."""
        settings, i = self.settings, step.index
        self.mapping = successor(self.mapping)
        optimizer = torch.optim.Adam(self.mapping.parameters(), lr=settings.learning_rate_at(i))
        for inner in range(settings.inner_steps_at(i)):
            loss = self.inner_step(model, levels, step, optimizer, inner, note)
            if loss.total < settings.stop_loss_at(i):
                break
        with torch.no_grad():
            values = self.mapping(self.image_tokens)
            reached, noise, _ = step.evaluate(model, levels, values, settings.guidance, False)
        return values, reached, noise

    def inner_step(
        self, model: LearningModel, levels: Levels, step: LearningStep,
        optimizer: torch.optim.Optimizer, inner: int, note: Note,
    ) -> InnerLoss:
        """Forward, both losses, backward, one update of M."""
        settings = self.settings
        reached, _, maps = step.evaluate(
            model, levels, self.mapping(self.image_tokens), settings.guidance,
            bool(step.wanted_maps))
        parts = step.losses(reached, maps, settings.attention_weight)
        loss = InnerLoss(step.index, inner, *(float(part.detach()) for part in parts))
        note(loss)
        leaves = list(self.mapping.parameters())
        found = gradients_of(parts[0] + parts[1], leaves, model.gradient_scale(step.latent))
        for leaf, gradient in zip(leaves, found, strict=True):
            leaf.grad = gradient
        optimizer.step()
        return loss

    def state(self) -> dict[str, Tensor]:
        """The network of the last step; every step's optimiser is its own."""
        return dict(self.mapping.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.mapping.load_state_dict(state)


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
        self.curvature = Curvature()

    def solve(
        self, model: LearningModel, levels: Levels, step: LearningStep, note: Note
    ) -> Solution:
        """A few evaluations; the best is kept, with the latent it reached."""
        settings, i = self.settings, step.index
        unit = noise_coefficient(levels, step.level) * model.weight(settings.guidance)
        seen: list[tuple[float, Tensor, Tensor]] = []

        def evaluate(point: Tensor) -> tuple[float, Callable[[], Tensor]]:
            leaf = point.detach().view_as(self.point).requires_grad_(True)
            reached, noise, found = step.evaluate(
                model, levels, self.values(leaf), settings.guidance, bool(step.wanted_maps))
            parts = step.losses(reached, found, settings.attention_weight)
            note(InnerLoss(i, len(seen), *(float(part.detach()) for part in parts)))
            loss = (parts[0] + parts[1]) / unit**2
            seen.append((float(loss.detach()), reached.detach(), noise.detach()))
            scale = model.gradient_scale(step.latent)
            return seen[-1][0], lambda: gradients_of(loss, [leaf], scale)[0].flatten()

        point, _ = descend(evaluate, self.point.flatten(), self.curvature,
                           settings.most_evaluations(i, levels.steps, True),
                           settings.good_enough_at(i, levels.steps))
        self.point = point.view_as(self.point)
        _, reached, noise = min(seen, key=lambda found: found[0])
        return self.values(self.point), reached, noise

    def state(self) -> dict[str, Tensor]:
        """The last step's point and what is known of the curvature."""
        pairs = {f"{name}.{i}": tensor for i, pair in enumerate(self.curvature.pairs)
                 for name, tensor in zip(("step", "change"), pair, strict=True)}
        return {"point": self.point, **pairs}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.point = state["point"]
        for i in range(len(state) // 2):
            self.curvature.pairs.append((state[f"step.{i}"], state[f"change.{i}"]))


def noise_coefficient(levels: Levels, level: int) -> float:
    """B of the DDIM move from a level to the one below: z' = A z + B eps."""
    here, below = levels.alpha(level), levels.alpha(level - 1)
    return (1 - below) ** 0.5 - (below * (1 - here) / here) ** 0.5
