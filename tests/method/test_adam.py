"""The authors' schedule, and Adam's state."""

import math

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import adam

from tests.method.one_line import OneLine, adam_solver


def test_the_thresholds_and_rates_are_those_of_the_released_code() -> None:
    usual = adam.AdamSchedule()
    for step in (0, 1, 7, 29):
        assert usual.stop_loss_at(step) == pytest.approx(1e-5 + 2e-5 * step)
        assert usual.learning_rate_at(step) == pytest.approx(1e-2 * (1 - step / 100))
        assert usual.inner_steps_at(step) == math.ceil(100 * math.exp(-0.1 * step))


def test_adam_takes_over_every_part_of_a_state() -> None:
    solver = adam_solver(OneLine())
    state = {name: torch.full_like(tensor, 3) for name, tensor in solver.state().items()}
    solver.restore(state)
    for name, tensor in solver.state().items():
        assert torch.equal(tensor, state[name]), name
    assert solver.loss_scale.lowered == 3
