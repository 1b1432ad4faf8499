"""The learning loop on a UNet of one line, against the algorithm written out beside it."""

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import adam, learning, schedule, value_embedding
from torch import Tensor

from tests.method.one_line import (
    IMAGE,
    LEVELS,
    SETTINGS,
    STEPS,
    TRAJECTORY,
    WIDTH,
    WITHOUT_MAPS,
    OneLine,
    Reached,
    adam_solver,
    both_solvers,
    drawn,
    learnt,
    quasi_newton_solver,
    run,
)


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


def test_what_is_learnt_depends_on_the_fixed_half_and_on_the_guidance() -> None:
    class OtherHalf(OneLine):
        def noise(self, latent: Tensor, level: int) -> Tensor:
            return self.hearing(latent, level, drawn(9, 77, WIDTH))

    plain, guided = run(OneLine(), SCHEDULE), dataclasses.replace(SETTINGS, guidance=4.0)
    for other in (run(OtherHalf(), SCHEDULE), run(OneLine(), SCHEDULE, settings=guided)):
        assert other.losses[0].total != pytest.approx(plain.losses[0].total, rel=1e-2)


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


class Heard(learning.Watch):
    """Everything that a watch is told, in order."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.began: list[Tensor] = []
        self.losses: list[learning.InnerLoss] = []
        self.steps: list[tuple[int, Tensor, Tensor]] = []
        self.kept: list[learning.Learnt] = []

    def before_step(self, step: learning.LearningStep) -> None:
        self.kinds.append("begins")
        self.began.append(step.latent)

    def after_inner(self, loss: learning.InnerLoss) -> None:
        self.kinds.append("loss")
        self.losses.append(loss)

    def after_step(self, step: int, latent: Tensor, noise: Tensor) -> None:
        self.kinds.append("ends")
        self.steps.append((step, latent, noise))

    def keep(self, learnt: learning.Learnt) -> None:
        self.kinds.append("keeps")
        self.kept.append(learnt)


@both_solvers
def test_a_watch_is_told_of_each_step_from_its_beginning_to_what_is_kept(make: Any) -> None:
    model, heard = OneLine(), Heard()
    found = learnt(model, make(model), SETTINGS, heard)
    runs = [kind for kind, _ in itertools.groupby(heard.kinds)]
    assert runs == ["begins", "loss", "ends", "keeps"] * STEPS
    assert heard.losses == found.losses
    alphas = LEVELS.alphas_cumprod.tolist()
    for i, (step, latent, noise) in enumerate(heard.steps):
        assert step == i and latent is heard.began[i]
        here, below = alphas[STEPS - i], alphas[STEPS - i - 1]
        clean = (latent - (1 - here) ** 0.5 * noise) / here**0.5
        reached = below**0.5 * clean + (1 - below) ** 0.5 * noise
        torch.testing.assert_close(heard.kept[i].latent, reached, rtol=1e-4, atol=1e-5)
        assert not any(tensor.requires_grad for tensor in (
            latent, noise, heard.kept[i].scale, heard.kept[i].shift))


def test_the_solution_of_one_picture_is_its_row_of_everything() -> None:
    several = learning.Solution(
        drawn(1, 3, 77, 2), drawn(2, 3, 77, 2), drawn(3, 3, 1, 4, 4), drawn(4, 3, 1, 4, 4))
    for row in range(3):
        alone = several.of_picture(row)
        assert torch.equal(alone.scale, several.scale[row])
        assert torch.equal(alone.shift, several.shift[row])
        assert torch.equal(alone.latent, several.latent[row][None])
        assert torch.equal(alone.noise, several.noise[row][None])
