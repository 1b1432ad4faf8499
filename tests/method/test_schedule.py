"""Levels, units and the choice of steps."""

import math

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import schedule


def textbook_alphas() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def test_timesteps_of_thirty_steps_are_those_of_the_released_code() -> None:
    levels = schedule.make_levels(30, textbook_alphas())
    assert levels.timesteps.tolist() == [33 * i + 1 for i in range(30)]


@pytest.mark.parametrize(("steps", "apart"), [(1, 0), (7, 142), (11, 90), (500, 2)])
def test_timesteps_are_as_far_apart_as_a_thousand_by_the_steps_rounded_down(
    steps: int, apart: int
) -> None:
    levels = schedule.make_levels(steps, textbook_alphas())
    assert levels.steps == steps and len(levels.alphas_cumprod) == steps + 1
    assert levels.timesteps.tolist() == [apart * i + 1 for i in range(steps)]


def test_the_clean_end_is_alpha_of_timestep_zero_and_not_one() -> None:
    alphas = textbook_alphas()
    levels = schedule.make_levels(10, alphas)
    assert levels.alpha(0) == pytest.approx(0.99915, abs=1e-9)
    assert levels.alpha(1) == float(alphas[1])
    assert levels.alpha(10) == float(alphas[901])


def test_sampling_sigmas_fall_and_end_at_sigma_zero() -> None:
    levels = schedule.make_levels(20, textbook_alphas())
    sigmas = levels.sampling_sigmas()
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[-1]) == pytest.approx(math.sqrt(0.00085 / 0.99915), rel=1e-6)


@pytest.mark.parametrize("steps", [0, -3, 501])
def test_steps_outside_the_range_are_an_error_that_names_them(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        schedule.make_levels(steps, textbook_alphas())


def test_steps_that_stop_short_of_the_noise_get_a_better_neighbour() -> None:
    assert schedule.deeper_steps(30) is None
    assert schedule.deeper_steps(400) == 401
    assert 1 + (1000 // 401) * 400 >= 800
    assert schedule.deeper_steps(3) == 5
