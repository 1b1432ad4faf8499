"""A UNet of one line, and learning on it."""

import dataclasses

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import (
    adam,
    learning,
    quasi_newton,
    schedule,
    value_embedding,
)
from torch import Tensor

STEPS, WIDTH, TOKENS = 4, 6, 5
LEVELS = schedule.make_levels(STEPS, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class OneLine:
    """eps = what the value input says, through one matrix and a tanh; and a map that follows it."""

    def __init__(self) -> None:
        self.context, self.out = drawn(1, 77, WIDTH), drawn(2, 77 * WIDTH, 16) / 40
        self.spoilt: tuple[int, float] | None = None

    def hearing(self, latent: Tensor, level: int, value: Tensor) -> Tensor:
        found = 0.3 * latent + torch.tanh(value.flatten(-2) @ self.out).view(-1, 1, 4, 4)
        if self.spoilt is not None and level == self.spoilt[0]:
            found = found * self.spoilt[1]
        return found

    def noise(self, latent: Tensor, level: int) -> Tensor:
        return self.hearing(latent, level, drawn(3, 77, WIDTH))

    def noise_with(
        self, latent: Tensor, level: int, scale: Tensor, shift: Tensor, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        value = self.context * scale + shift
        return self.hearing(latent, level, value), self.maps_of(value, level) if maps else []

    def maps(self, latent: Tensor, level: int) -> list[Tensor]:
        return self.maps_of(self.context, level)

    def maps_of(self, value: Tensor, level: int) -> list[Tensor]:
        return [value[:4].softmax(0) * level]

    def gradient_scale(self, latent: torch.Tensor) -> float:
        return 1.0

    def weight(self, guidance: float) -> float:
        return guidance


TRAJECTORY = drawn(4, STEPS + 1, 1, 4, 4)
TRAJECTORY[1:] = TRAJECTORY[:1] + 0.05 * TRAJECTORY[1:]
IMAGE = drawn(5, 1, TOKENS, WIDTH)


def run(
    model: OneLine, schedule: adam.AdamSchedule, watch: learning.Watch | None = None,
    settings: learning.LearningSettings | None = None,
) -> learning.Learnt:
    return learnt(model, adam_solver(model, schedule), settings or SETTINGS, watch)


def learnt(
    model: OneLine, solver: learning.Solver, settings: learning.LearningSettings,
    watch: learning.Watch | None = None,
) -> learning.Learnt:
    return learning.learn(
        model, learning.LearningRun(TRAJECTORY, LEVELS, solver, settings, watch))


def quasi_newton_solver(
    model: OneLine, schedule: quasi_newton.QuasiNewtonSchedule | None = None
) -> quasi_newton.QuasiNewtonSolver:
    return quasi_newton.QuasiNewtonSolver(
        value_embedding.start_rows(value_embedding.SCALE_AND_SHIFT, model.context[None]),
        value_embedding.scale_and_shift,
        schedule or quasi_newton.QuasiNewtonSchedule(evaluations=4))


def adam_solver(model: OneLine, schedule: adam.AdamSchedule | None = None) -> adam.AdamSolver:
    return adam.AdamSolver(
        value_embedding.make_mapping(
            model.context[None], IMAGE, 0, value_embedding.SCALE_AND_SHIFT
        ),
        IMAGE,
        schedule or adam.AdamSchedule(inner_steps=3, stop_loss=0.0, stop_loss_growth=0.0),
    )


both_solvers = pytest.mark.parametrize("make", [quasi_newton_solver, adam_solver])


class Reached(learning.Watch):
    def __init__(self) -> None:
        self.latents: list[Tensor] = []

    def keep(self, learnt: learning.Learnt) -> None:
        self.latents.append(learnt.latent)


SETTINGS = learning.LearningSettings(guidance=3.0)
WITHOUT_MAPS = dataclasses.replace(SETTINGS, attention_weight=0.0)
