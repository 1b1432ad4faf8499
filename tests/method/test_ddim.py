"""DDIM's step, its inversion and its guidance, with their formulas written out."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import ddim, schedule

ALPHAS = (0.99, 0.81, 0.64, 0.36)


def levels() -> schedule.Levels:
    return schedule.Levels(torch.tensor([1, 334, 667]), torch.tensor(ALPHAS, dtype=torch.float64))


def noise_of(latent: torch.Tensor, level: int) -> torch.Tensor:
    """A noise that depends on where and on which level it is looked for."""
    return 0.1 * latent.square() + 0.2 * level


def test_a_move_takes_the_noise_out_and_puts_as_much_of_the_new_level_in() -> None:
    """From alpha .64 to .36: (1 - .6 * .5) / .8 = .875 is clean, .6 * .875 + .8 * .5 = .925."""
    found = ddim.transfer(torch.tensor(1.0), torch.tensor(0.5), 0.64, 0.36)
    assert float(found) == pytest.approx(0.925, abs=1e-6)
    back = ddim.transfer(torch.tensor(1.0), torch.tensor(0.5), 0.36, 0.64)
    assert float(back) == pytest.approx(0.8 * (1 - 0.8 * 0.5) / 0.6 + 0.6 * 0.5, abs=1e-6)


def test_a_noised_picture_moves_to_the_same_picture_under_the_same_noise() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    first, second = (a**0.5 * clean + (1 - a) ** 0.5 * noise for a in (0.9, 0.05))
    torch.testing.assert_close(ddim.transfer(first, noise, 0.9, 0.05), second)
    torch.testing.assert_close(ddim.transfer(second, noise, 0.05, 0.9), first)


def test_inversion_looks_for_each_noise_at_the_next_level_on_the_latent_it_leaves() -> None:
    asked: list[tuple[int, float]] = []

    def predict(latent: torch.Tensor, level: int) -> torch.Tensor:
        asked.append((level, float(latent)))
        return noise_of(latent, level)

    found = ddim.invert(predict, torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), levels())
    wanted, z = [0.7], 0.7
    for level in (1, 2, 3):
        before, after = ALPHAS[level - 1], ALPHAS[level]
        noise = 0.1 * z**2 + 0.2 * level
        clean = (z - (1 - before) ** 0.5 * noise) / before**0.5
        z = after**0.5 * clean + (1 - after) ** 0.5 * noise
        wanted.append(z)
    assert found.shape == (4, 1, 1, 1)
    assert found.flatten().tolist() == pytest.approx(wanted, rel=1e-12)
    assert [level for level, _ in asked] == [1, 2, 3]
    assert [z for _, z in asked] == pytest.approx(wanted[:3], rel=1e-12)


def test_what_watches_an_inversion_sees_each_step_its_latent_and_its_noise() -> None:
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    found = ddim.invert(
        noise_of, torch.full((1, 2, 1, 1), 0.7), levels(), lambda *step: seen.append(step))
    assert [step for step, _, _ in seen] == [0, 1, 2]
    for step, latent, noise in seen:
        assert torch.equal(latent, found[step : step + 1])
        assert torch.equal(noise, 0.1 * latent.square() + 0.2 * (step + 1))


def test_an_inversion_that_overflows_says_at_which_step() -> None:
    def predict(latent: torch.Tensor, level: int) -> torch.Tensor:
        return torch.full_like(latent, torch.inf if level == 2 else 0.0)

    with pytest.raises(FloatingPointError, match="not finite after inversion step 2 of 3; run"):
        ddim.invert(predict, torch.zeros(1, 4, 2, 2), levels())


def test_one_number_that_overflows_is_enough() -> None:
    def predict(latent: torch.Tensor, level: int) -> torch.Tensor:
        return torch.tensor([0.0, torch.nan]).view(1, 1, 1, 2)

    with pytest.raises(FloatingPointError, match="step 1 of 3"):
        ddim.invert(predict, torch.zeros(1, 1, 1, 2), levels())


def test_guidance_goes_from_the_unconditional_noise_past_the_conditional_one() -> None:
    uncond, cond = torch.tensor([1.0, -2.0]), torch.tensor([3.0, -2.0])
    assert ddim.guide(uncond, cond, 7.5).tolist() == [1 + 7.5 * 2, -2]
    assert torch.equal(ddim.guide(uncond, cond, 1.0), cond)
    assert torch.equal(ddim.guide(uncond, cond, 0.0), uncond)
