"""A more exact inversion: the implicit equation of each step, written out, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import ddim, fixed_point, schedule
from torch import Tensor

ALPHAS = (0.99, 0.81, 0.64, 0.36)
WEIGHT = 0.07 * torch.randn(
    12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def levels() -> schedule.Levels:
    return schedule.Levels(torch.tensor([1, 334, 667]), torch.tensor(ALPHAS, dtype=torch.float64))


def noise_of(latent: Tensor, level: int) -> Tensor:
    """A noise that bends with the latent, all of whose numbers it mixes."""
    return torch.tanh(latent.flatten() @ (WEIGHT * (5 + level))).view_as(latent) + 0.1 * level


def start() -> Tensor:
    return torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def residuals(trajectory: Tensor) -> list[float]:
    """|z_{k+1} - a z_k - b eps(z_{k+1}, k + 1)| of every step."""
    found = []
    for k in range(3):
        before, after = ALPHAS[k], ALPHAS[k + 1]
        a = (after / before) ** 0.5
        b = (1 - after) ** 0.5 - (after * (1 - before) / before) ** 0.5
        below, above = trajectory[k : k + 1], trajectory[k + 1 : k + 2]
        found.append(float((above - a * below - b * noise_of(above, k + 1)).norm()))
    return found


def walked(inversion: str, iterations: int, tolerance: float = 0.0) -> Tensor:
    refine = fixed_point.refinement(inversion, iterations)
    if isinstance(refine, fixed_point.FixedPoint):
        refine = fixed_point.FixedPoint(refine.iterations, refine.depth, tolerance)
    return ddim.invert(noise_of, start(), levels(), refine=refine)


@pytest.mark.parametrize("inversion", ["fixed point", "Anderson"])
def test_each_step_fulfils_the_equation_that_sampling_undoes(inversion: str) -> None:
    assert max(residuals(walked(inversion, 60))) < 1e-12


@pytest.mark.parametrize("inversion", ["fixed point", "Anderson"])
def test_sampling_comes_back_to_the_picture(inversion: str) -> None:
    z = walked(inversion, 60)[-1:]
    for k in (2, 1, 0):
        before, after = ALPHAS[k + 1], ALPHAS[k]
        noise = noise_of(z, k + 1)
        z = after**0.5 * (z - (1 - before) ** 0.5 * noise) / before**0.5 \
            + (1 - after) ** 0.5 * noise
    torch.testing.assert_close(z, start(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("inversion", ["fixed point", "Anderson"])
def test_every_iteration_leaves_less(inversion: str) -> None:
    left = [sum(residuals(walked(inversion, count))) for count in range(6)]
    assert all(after < 0.8 * before for before, after in zip(left, left[1:], strict=False)), left


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("image_of", [
    lambda z: 1.3 if z < 1.25 else 3.0, lambda z: 1.3 if z < 1.25 else 1.26 if z < 1.28 else 1.4,
    lambda z: 1 + math.sin(3 * z) / 2, lambda z: 1 + math.sin(z) / 4])
def test_a_step_ends_no_farther_off_than_the_best_point_it_looked_at(
    depth: int, image_of: Callable[[float], float]
) -> None:
    """Where f jumps or turns sharply, looking again leads away from the equation z = f(z)."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    a, b = (0.64 / 0.81) ** 0.5, 0.6 - (0.64 * 0.19 / 0.81) ** 0.5
    seen: list[float] = []

    def noise(latent: Tensor, level: int) -> Tensor:
        seen.append(float(latent))
        return (image_of(float(latent)) - a * 0.7) / b * one

    def residual(point: float) -> float:
        return abs(image_of(point) - point) / abs(image_of(point))

    found = fixed_point.FixedPoint(8, depth, 0.0)(noise, 0.7 * one, 1.2 * one, 1, levels())
    assert seen[0] == 1.2
    assert residual(float(found)) <= max(1e-9, min(map(residual, seen)))


def test_after_as_many_evaluations_anderson_leaves_less_than_half() -> None:
    anderson, plain = (sum(residuals(walked(name, 8))) for name in ("Anderson", "fixed point"))
    assert anderson < 0.5 * plain


def test_a_linear_equation_in_two_numbers_is_solved_after_two_differences() -> None:
    """f(z) = M z + c: Anderson of depth 2 is then GMRES, which is exact after two steps."""
    matrix = torch.tensor([[0.5, 0.3], [-0.2, 0.6]], dtype=torch.float64)
    c = torch.tensor([1.0, -2.0], dtype=torch.float64)
    points: list[Tensor] = [torch.zeros(2, dtype=torch.float64)]
    images = [c]
    for _ in range(2):
        points.append(fixed_point.next_point(points, images, 2))
        images.append(matrix @ points[-1] + c)
    found = fixed_point.next_point(points, images, 2)
    wanted = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - matrix, c)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("inversion", ["DDIM", "fixed point", "Anderson"])
def test_without_iterations_it_is_ddim_to_the_last_bit(inversion: str) -> None:
    plain = ddim.invert(noise_of, start(), levels())
    assert torch.equal(walked(inversion, 0), plain)


def test_a_good_enough_step_asks_for_no_more_noise() -> None:
    asked: list[int] = []

    def predict(latent: Tensor, level: int) -> Tensor:
        asked.append(level)
        return noise_of(latent, level)

    ddim.invert(predict, start(), levels(), refine=fixed_point.FixedPoint(50, 0, 1e-3))
    counts = [asked.count(level) for level in (1, 2, 3)]
    assert all(2 <= count < 12 for count in counts), counts


def test_where_the_iteration_runs_away_the_best_point_stays() -> None:
    """f(z) = 1 - 3 z from z_0 = 0: 1, -2, 7...; the residual only grows, so DDIM's 1 stays."""
    def predict(latent: Tensor, level: int) -> Tensor:
        before, after = ALPHAS[0], ALPHAS[1]
        b = (1 - after) ** 0.5 - (after * (1 - before) / before) ** 0.5
        return (1 - 3 * latent) / b

    one = schedule.Levels(torch.tensor([1]), torch.tensor(ALPHAS[:2], dtype=torch.float64))
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found = ddim.invert(predict, zero, one, refine=fixed_point.FixedPoint(5))
    assert found.flatten().tolist() == pytest.approx([0, 1], abs=1e-9)


def test_easyinv_averages_two_latents_in_its_share_of_the_steps() -> None:
    """Of twenty steps those whose index is above 1 and below 5: 2, 3 and 4."""
    alphas = torch.linspace(0.99, 0.2, 21, dtype=torch.float64)
    many = schedule.Levels(torch.arange(1, 21), alphas)
    found = ddim.invert(noise_of, start(), many, refine=fixed_point.refinement("EasyInv", 0))
    for k in range(20):
        below, after, before = found[k : k + 1], float(alphas[k + 1]), float(alphas[k])
        noise = noise_of(below, k + 1)
        step = after**0.5 * (below - (1 - before) ** 0.5 * noise) / before**0.5 \
            + (1 - after) ** 0.5 * noise
        wanted = (step + below) / 2 if k in (2, 3, 4) else step
        torch.testing.assert_close(found[k + 1 : k + 2], wanted)


def test_another_word_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'Newton'.*DDIM, fixed point, Anderson, EasyInv"):
        fixed_point.refinement("Newton", 1)


def test_the_constants_are_those_that_were_measured() -> None:
    assert fixed_point.FixedPoint(4) == fixed_point.FixedPoint(4, depth=0, tolerance=1e-5)
    assert fixed_point.refinement("fixed point", 4) == fixed_point.FixedPoint(4, 0, 1e-5)
    assert fixed_point.refinement("Anderson", 4) == fixed_point.FixedPoint(4, 2, 1e-5)
    assert fixed_point.refinement("EasyInv", 4) == fixed_point.Averaging(0.05, 0.25)


@pytest.mark.parametrize(("image", "wanted"), [
    (2.0, 4.0),  # |2 - 4| / 2 = 1 is more than |4 - 1| / 4
    (16.0, 4.0),  # |16 - 4| / 16 is no less
    (8.0, 8.0),
])
def test_an_iteration_that_is_no_better_than_ddims_own_is_left_out(
    image: float, wanted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z_k = 1, DDIM makes 4 of it, and of 4 the next image is made."""
    monkeypatch.setattr(fixed_point, "transfer", lambda *_: torch.full((1, 1, 1, 1), image))
    levels = schedule.Levels(torch.tensor([1]), torch.tensor([0.9, 0.5], dtype=torch.float64))
    found = fixed_point.FixedPoint(1)(
        lambda z, level: z, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 4.0), 0, levels)
    assert float(found) == wanted


def test_nothing_follows_a_ddim_step_where_nothing_is_asked() -> None:
    assert fixed_point.refinement("DDIM", 4) is None
    assert fixed_point.refinement("Anderson", 0) is None
