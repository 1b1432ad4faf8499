"""The fast preset's loss, in units of noise, and the evaluation that is kept."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import ddim, quasi_newton
from torch import Tensor

from tests.method.one_line import (
    LEVELS,
    SETTINGS,
    STEPS,
    TRAJECTORY,
    WITHOUT_MAPS,
    OneLine,
    Reached,
    drawn,
    learnt,
    quasi_newton_solver,
)


class Worsening(OneLine):
    """Whatever is tried after the first evaluation of a step is heard worse and worse."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []

    def noise_with(
        self, latent: Tensor, level: int, scale: Tensor, shift: Tensor, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        noise, found = super().noise_with(latent, level, scale, shift, maps)
        self.levels.append(level)
        return noise + 100.0 * (self.levels.count(level) - 1), found


def test_the_best_evaluation_is_kept_when_a_later_one_is_worse() -> None:
    model, watch = Worsening(), Reached()
    schedule = quasi_newton.QuasiNewtonSchedule(evaluations=4)
    found = learnt(model, quasi_newton_solver(model, schedule), WITHOUT_MAPS, watch)
    alphas, latent = LEVELS.alphas_cumprod.tolist(), TRAJECTORY[STEPS:]
    for i, reached in enumerate(watch.latents):
        losses = [loss.latent for loss in found.losses if loss.step == i]
        assert len(losses) > 1 and losses[0] == min(losses) < losses[-1]
        level = STEPS - i
        cond = OneLine().noise_with(latent, level, found.scale[i], found.shift[i], False)[0]
        uncond = OneLine().noise(latent, level)
        noise = uncond + SETTINGS.guidance * (cond - uncond)
        here, below = alphas[level], alphas[level - 1]
        clean = (latent - (1 - here) ** 0.5 * noise) / here**0.5
        latent = below**0.5 * clean + (1 - below) ** 0.5 * noise
        torch.testing.assert_close(reached, latent, rtol=1e-5, atol=1e-6)


def test_the_noise_coefficient_is_what_one_more_of_noise_moves_a_latent_by() -> None:
    alphas, latent = LEVELS.alphas_cumprod.tolist(), drawn(6, 3).double()
    for here, below in zip(alphas[1:], alphas[:-1], strict=True):
        def moved(noise: float, here: float = here, below: float = below) -> Tensor:
            return ddim.transfer(latent, torch.full((3,), noise).double(), here, below)

        found = quasi_newton.noise_coefficient(here, below)
        assert found < 0
        torch.testing.assert_close(moved(1.5) - moved(0.5), torch.full((3,), found).double())


@pytest.mark.parametrize("weight", [0.5, -2.0])
def test_the_fast_presets_loss_is_in_units_of_the_noise_that_is_heard(weight: float) -> None:
    """|eps wanted - eps heard|^2 of each evaluation is what is good enough, or not."""
    class Weighted(OneLine):
        def weight(self, guidance: float) -> float:
            return weight

    def noise_losses(good_enough: float) -> tuple[list[float], list[int]]:
        schedule = quasi_newton.QuasiNewtonSchedule(
            good_enough=good_enough, good_enough_closing=good_enough, first_evaluations=6)
        model = Weighted()
        found = learnt(model, quasi_newton_solver(model, schedule), WITHOUT_MAPS)
        alphas = LEVELS.alphas_cumprod.tolist()
        unit = ((1 - alphas[3]) ** 0.5 - (alphas[3] / alphas[4]) ** 0.5 * (1 - alphas[4]) ** 0.5)
        first = [loss.latent for loss in found.losses if loss.step == 0]
        return [loss / (unit * weight) ** 2 for loss in first], [x.step for x in found.losses]

    losses, _ = noise_losses(0.0)
    assert len(losses) == 6
    best = min(losses[:4])
    place = losses.index(best)
    assert len(noise_losses(best * 1.001)[0]) == place + 1
    assert len(noise_losses(best * 0.999)[0]) > place + 1
