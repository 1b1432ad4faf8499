"""Losses, latents and gradients that are not finite, and gradients scaled to be so."""

import math
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import adam
from torch import Tensor

from tests.method.one_line import STEPS, WITHOUT_MAPS, OneLine, Reached, both_solvers, learnt, run


@both_solvers
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_the_remedy(
    make: Any, step: int, factor: float
) -> None:
    model = OneLine()
    model.spoilt = (STEPS - step, factor)
    message = f"not finite at step {step + 1} of {STEPS}, inner step 1; run the model in bf16"
    with pytest.raises(FloatingPointError, match=message):
        learnt(model, make(model), WITHOUT_MAPS)


def test_a_latent_that_is_not_finite_stops_before_it_is_kept() -> None:
    """The loss is fine, but the update it leads to is not: the last step has no later loss."""
    model, watch = OneLine(), Reached()
    schedule = adam.AdamSchedule(inner_steps=1, learning_rate=math.inf)
    with pytest.raises(FloatingPointError, match=f"latent is not finite after step 1 of {STEPS}; "
                       r"run the model in bf16 or fp32 .*, or lower learning_rate"):
        run(model, schedule, watch)
    assert not watch.latents


class Half(OneLine):
    """What is heard passes through fp16, and so does its gradient; forward passes are counted."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.count = scale, 0

    def noise_with(
        self, latent: Tensor, level: int, scale: Tensor, shift: Tensor, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        self.count += torch.is_grad_enabled()
        half = [rows.half().float() for rows in (scale, shift)]
        return super().noise_with(latent, level, *half, maps)

    def gradient_scale(self, latent: Tensor) -> float:
        return self.scale


@both_solvers
def test_a_scale_is_lowered_once_for_the_whole_run_by_passes_that_are_done_again(make: Any) -> None:
    found, counts = [], []
    for scale in (2.0**6, 2.0**50):
        model, watch = Half(scale), Reached()
        solver = make(model)
        with torch.enable_grad():
            losses = learnt(model, solver, WITHOUT_MAPS, watch).losses
        counts.append((model.count - len(losses), solver.loss_scale.lowered))
        found.append([loss.total for loss in losses])
    assert counts[0] == (0, 0)
    again, lowered = counts[1]
    assert again == lowered and 5 < lowered < 12
    assert found[0] == pytest.approx(found[1], rel=5e-2)


@both_solvers
def test_a_gradient_that_overflows_unscaled_names_the_step_and_the_remedy(make: Any) -> None:
    class Steep(OneLine):
        def hearing(self, latent: Tensor, level: int, value: Tensor) -> Tensor:
            found = super().hearing(latent, level, value)
            if found.requires_grad and level == STEPS - 1:
                found.register_hook(lambda gradient: gradient * torch.inf)
            return found

        def gradient_scale(self, latent: Tensor) -> float:
            return 64.0

    model = Steep()
    with pytest.raises(FloatingPointError, match=f"the gradient is not finite at step 2 of {STEPS};"
                       " run the model in bf16"):
        learnt(model, make(model), WITHOUT_MAPS)
