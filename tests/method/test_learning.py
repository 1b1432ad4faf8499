"""The learning loop on a UNet of one line, against the algorithm written out beside it."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import (
    adam,
    ddim,
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


def written_out(
    model: OneLine, schedule: adam.AdamSchedule
) -> tuple[list[tuple[int, int, float]], list[Tensor]]:
    """Every (step, inner step, loss), and the latent after each step, by the authors' rules."""
    network = value_embedding.make_mapping(
        model.context[None], IMAGE, 0, value_embedding.SCALE_AND_SHIFT
    )
    alphas = LEVELS.alphas_cumprod.tolist()
    losses, latent, reached = [], TRAJECTORY[STEPS:], []

    def guided(z: Tensor, level: int) -> tuple[Tensor, list[Tensor]]:
        cond, maps = model.noise_with(z, level, *network(IMAGE), True)
        uncond = model.noise(z, level)
        noise = uncond + SETTINGS.guidance * (cond - uncond)
        here, below = alphas[level], alphas[level - 1]
        clean = (z - (1 - here) ** 0.5 * noise) / here**0.5
        return below**0.5 * clean + (1 - below) ** 0.5 * noise, maps

    for i in range(STEPS):
        network, level = copy.deepcopy(network), STEPS - i
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2 * (1 - i / 100))
        entry = STEPS - 1 if i == 0 else STEPS - i
        wanted = model.maps(TRAJECTORY[entry : entry + 1], entry + 1)
        for inner in range(math.ceil(schedule.inner_steps * math.exp(-0.1 * i))):
            z, maps = guided(latent, level)
            loss = ((z - TRAJECTORY[level - 1 : level]) ** 2).mean()
            for found, map_wanted in zip(maps, wanted, strict=True):
                loss = loss + ((found - map_wanted) ** 2).mean()
            losses.append((i, inner, float(loss.detach())))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if losses[-1][2] < schedule.stop_loss + schedule.stop_loss_growth * i:
                break
        with torch.no_grad():
            latent, _ = guided(latent, level)
        reached.append(latent)
    return losses, reached


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
SCHEDULE = adam.AdamSchedule(inner_steps=40, stop_loss=0.4, stop_loss_growth=0.4)


def test_every_step_stops_after_the_update_whose_loss_was_good_enough() -> None:
    watch = Reached()
    found = run(OneLine(), SCHEDULE, watch)
    losses, reached = written_out(OneLine(), SCHEDULE)
    assert [(x.step, x.inner) for x in found.losses] == [(i, j) for i, j, _ in losses]
    assert [x.total for x in found.losses] == pytest.approx([x for _, _, x in losses], rel=1e-4)
    for own, wanted in zip(watch.latents, reached, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)


def test_in_that_case_some_steps_stop_early_and_some_run_to_the_end() -> None:
    losses, _ = written_out(OneLine(), SCHEDULE)
    taken = [sum(i == step for i, _, _ in losses) for step in range(STEPS)]
    most = [SCHEDULE.inner_steps_at(step) for step in range(STEPS)]
    assert most == [40, 37, 33, 30]
    assert all(1 < a < b for a, b in zip(taken[:2], most[:2], strict=True)), taken
    assert taken[2:] == most[2:]
    last = [[x for i, _, x in losses if i == step][-1] for step in range(STEPS)]
    for step, loss in enumerate(last):
        assert (loss < 0.4 + 0.4 * step) == (taken[step] < most[step]), (taken, last)


def test_the_thresholds_and_rates_are_those_of_the_released_code() -> None:
    usual = adam.AdamSchedule()
    for step in (0, 1, 7, 29):
        assert usual.stop_loss_at(step) == pytest.approx(1e-5 + 2e-5 * step)
        assert usual.learning_rate_at(step) == pytest.approx(1e-2 * (1 - step / 100))
        assert usual.inner_steps_at(step) == math.ceil(100 * math.exp(-0.1 * step))


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


def test_what_is_learnt_depends_on_the_fixed_half_and_on_the_guidance() -> None:
    class OtherHalf(OneLine):
        def noise(self, latent: Tensor, level: int) -> Tensor:
            return self.hearing(latent, level, drawn(9, 77, WIDTH))

    plain, guided = run(OneLine(), SCHEDULE), dataclasses.replace(SETTINGS, guidance=4.0)
    for other in (run(OtherHalf(), SCHEDULE), run(OneLine(), SCHEDULE, settings=guided)):
        assert other.losses[0].total != pytest.approx(plain.losses[0].total, rel=1e-2)


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


@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_the_attention_loss_counts_by_its_weight(weight: float) -> None:
    once, weighted = adam.AdamSchedule(inner_steps=1), dataclasses.replace(
        SETTINGS, attention_weight=weight)
    found, whole = run(OneLine(), once, settings=weighted), run(OneLine(), once)
    first, full = found.losses[0], whole.losses[0]
    assert full.attention > 1e-3
    assert first.latent == pytest.approx(full.latent, rel=1e-5)
    assert first.attention == pytest.approx(weight * full.attention, rel=1e-5)
    assert first.total == pytest.approx(first.latent + first.attention)
    assert (found.losses[1].latent == pytest.approx(whole.losses[1].latent, rel=1e-5)) is False


def test_what_a_watch_was_given_to_keep_does_not_change_afterwards() -> None:
    class Keeping(learning.Watch):
        def __init__(self) -> None:
            self.kept: list[tuple[learning.Learnt, learning.Learnt]] = []

        def keep(self, learnt: learning.Learnt) -> None:
            self.kept.append((learnt, copy.deepcopy(learnt)))

    for make in (quasi_newton_solver, adam_solver):
        watch, model = Keeping(), OneLine()
        learnt(model, make(model), WITHOUT_MAPS, watch)
        assert [kept.steps for kept, _ in watch.kept] == [1, 2, 3, 4]
        for kept, then in watch.kept:
            assert kept.losses == then.losses
            assert {loss.step for loss in kept.losses} == set(range(kept.steps))
            for name, tensor in {**kept.solver, "scale": kept.scale, "shift": kept.shift,
                                 "latent": kept.latent}.items():
                same = then.solver.get(name, getattr(then, name, None))
                assert torch.equal(tensor, same), name


def test_more_than_a_hundred_steps_are_learnt_at_a_hundredth_of_the_rate() -> None:
    steps = 105
    levels = schedule.make_levels(steps, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    latents = TRAJECTORY[:1] + 0.01 * drawn(8, steps + 1, 1, 4, 4)
    once = adam.AdamSchedule(inner_steps=1)
    assert once.learning_rate_at(99) == pytest.approx(1e-4)
    assert [once.learning_rate_at(step) for step in (100, 104, 499)] == [1e-4] * 3
    model = OneLine()
    for solver in (quasi_newton_solver(model), adam_solver(model, once)):
        found = learning.learn(
            model, learning.LearningRun(latents, levels, solver, WITHOUT_MAPS))
        assert found.steps == steps and torch.isfinite(found.latent).all()
        assert {loss.step for loss in found.losses} == set(range(steps))


def test_adam_takes_over_every_part_of_a_state() -> None:
    solver = adam_solver(OneLine())
    state = {name: torch.full_like(tensor, 3) for name, tensor in solver.state().items()}
    solver.restore(state)
    for name, tensor in solver.state().items():
        assert torch.equal(tensor, state[name]), name
    assert solver.loss_scale.lowered == 3
