"""Several pictures in one batch: each is learnt as it would be alone, on a UNet of one line.

In fp64: a descent magnifies what is rounded otherwise, step after step.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import (
    lbfgs,
    learning,
    quasi_newton,
    schedule,
    value_embedding,
)
from torch import Tensor

STEPS, WIDTH, PICTURES = 5, 6, 4
LEVELS = schedule.make_levels(STEPS, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
SETTINGS = learning.LearningSettings(guidance=3.0, attention_weight=0.0)
SCHEDULE = quasi_newton.QuasiNewtonSchedule(
    first_evaluations=6, evaluations=5, closing_evaluations=4, good_enough=0.3,
    good_enough_closing=0.05, closing_steps=2)


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


OUT = drawn(2, 77 * WIDTH, 16) / 40
CONTEXTS = torch.stack([drawn(10 + k, 77, WIDTH) for k in range(PICTURES)])
OTHERS = torch.stack([drawn(20 + k, 77, WIDTH) for k in range(PICTURES)])
TRAJECTORIES = [drawn(30 + k, 1, 1, 4, 4) + 0.05 * (1 + 5 * k) * drawn(40 + k, STEPS + 1, 1, 4, 4)
                for k in range(PICTURES)]


class Rows:
    """A UNet of one line under the prompts of some pictures; batches and backward passes counted.

    `steep` overflows what a scaled gradient of one picture may be, as fp16 would.
    """

    def __init__(
        self, rows: Sequence[int], batches: list[tuple[int, ...]], scale: float = 1.0,
        steep: dict[int, float] | None = None,
    ) -> None:
        self.rows, self.batches, self.scale, self.steep = [*rows], batches, scale, steep or {}

    def heard(self, latent: Tensor, value: Tensor) -> Tensor:
        return 0.3 * latent + torch.tanh(value.flatten(-2) @ OUT).view(-1, 1, 4, 4)

    def noise(self, latent: Tensor, level: int) -> Tensor:
        assert len(latent) == len(self.rows)
        return self.heard(latent, OTHERS[self.rows]) * (1 + level / 100)

    def noise_with(
        self, latent: Tensor, level: int, scale: Tensor, shift: Tensor, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        assert len(latent) == len(scale) == len(self.rows) and not maps
        self.batches.append(tuple(self.rows))
        noise = self.heard(latent, CONTEXTS[self.rows] * scale + shift)
        if self.scale > 1:
            noise.register_hook(self.overflowing)
        return noise, []

    def overflowing(self, gradient: Tensor) -> Tensor:
        limits = gradient.new_tensor([self.steep.get(row, math.inf) for row in self.rows])
        over = gradient.flatten(1).abs().amax(1) > limits
        return torch.where(over.view(-1, 1, 1, 1), math.inf, gradient)

    def maps(self, latent: Tensor, level: int) -> list[Tensor]:
        raise AssertionError("the fast preset wants no maps")

    def weight(self, guidance: float) -> float:
        return guidance

    def gradient_scale(self, latent: Tensor) -> float:
        assert len(latent) == 1, "a picture's scale does not depend on the others"
        return self.scale


def run_of(
    picture: int, watch: learning.Watch | None = None, begun: learning.Learnt | None = None
) -> learning.LearningRun[quasi_newton.QuasiNewtonSolver]:
    start = torch.cat([torch.ones(77, WIDTH), torch.zeros(77, WIDTH)]).double()
    solver = quasi_newton.QuasiNewtonSolver(start, value_embedding.scale_and_shift, SCHEDULE)
    return learning.LearningRun(TRAJECTORIES[picture], LEVELS, solver, SETTINGS, watch, begun)


def together(
    runs: Sequence[learning.LearningRun[Any]], batches: list[tuple[int, ...]], **how: Any
) -> list[learning.Learnt]:
    return quasi_newton.learn_together(lambda rows: Rows(rows, batches, **how), runs)


def alone(picture: int, batches: list[tuple[int, ...]], **how: Any) -> learning.Learnt:
    return learning.learn(Rows([picture], batches, **how), run_of(picture))


def assert_same(found: learning.Learnt, wanted: learning.Learnt) -> None:
    places = [[(x.step, x.inner) for x in one.losses] for one in (found, wanted)]
    assert places[0] == places[1]
    assert [x.latent for x in found.losses] == pytest.approx(
        [x.latent for x in wanted.losses], rel=1e-6)
    for name in ("scale", "shift", "latent"):
        torch.testing.assert_close(
            getattr(found, name), getattr(wanted, name), rtol=1e-6, atol=1e-6)


def test_each_is_learnt_as_alone_in_no_more_passes_than_the_slowest_takes() -> None:
    batches: list[tuple[int, ...]] = []
    single: list[tuple[int, ...]] = []
    found = together([run_of(k) for k in range(PICTURES)], batches)
    wanted = [alone(k, single) for k in range(PICTURES)]
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)
    taken = [[sum(x.step == step for x in one.losses) for one in wanted] for step in range(STEPS)]
    assert any(len(set(step)) > 1 for step in taken), "all alike proves nothing"
    assert len(batches) == sum(max(step) for step in taken)
    assert sum(map(len, batches)) == len(single), "those that are done leave the batch"


def test_one_that_has_got_further_waits_for_the_others_and_is_not_learnt_again() -> None:
    kept: list[learning.Learnt] = []

    class Keeping(learning.Watch):
        def keep(self, learnt: learning.Learnt) -> None:
            kept.append(dataclasses.replace(learnt))

    whole = learning.learn(Rows([1], []), run_of(1, Keeping()))
    batches: list[tuple[int, ...]] = []
    found = together([run_of(0), run_of(1, begun=kept[2]), run_of(2)], batches)
    assert_same(found[1], whole)
    assert_same(found[0], alone(0, []))
    first = sum(1 in rows for rows in batches)
    assert first == sum(loss.step > 2 for loss in whole.losses)
    finished = together([run_of(0), run_of(1, begun=kept[-1])], batches := [])
    assert_same(finished[1], whole)
    assert {row for rows in batches for row in rows} == {0}


def test_an_overflow_lowers_the_scale_of_its_own_picture_alone() -> None:
    steep = {1: 2.0**12}
    batches: list[tuple[int, ...]] = []
    runs = [run_of(k) for k in range(3)]
    with torch.enable_grad():
        found = together(runs, batches, scale=2.0**20, steep=steep)
        wanted = [alone(k, []) for k in range(3)]
    lowered = [run.solver.loss_scale.lowered for run in runs]
    assert lowered[0] == lowered[2] == 0 < lowered[1]
    passes = [sum(k in rows for rows in batches) for k in range(3)]
    assert passes == [len(one.losses) + extra for one, extra in zip(found, lowered, strict=True)]
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)


def test_what_no_scale_can_mend_names_the_step() -> None:
    with torch.enable_grad(), pytest.raises(
            FloatingPointError, match=f"the gradient is not finite at step . of {STEPS}"):
        together([run_of(0), run_of(1)], [], scale=2.0**20, steep={1: 0.0})


def test_all_pictures_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = lbfgs._read
    monkeypatch.setattr(lbfgs, "_read", lambda numbers: (reads.append(len(numbers)),
                                                         read(numbers))[1])
    for k in range(PICTURES):
        alone(k, [])
    one_by_one, reads[:] = len(reads), []
    batches: list[tuple[int, ...]] = []
    found = together([run_of(k) for k in range(PICTURES)], batches)
    evaluations = sum(len(one.losses) for one in found)
    assert len(batches) < evaluations / 2 and len(reads) < one_by_one / 2
    assert max(reads) == PICTURES


def test_a_loss_that_is_not_finite_stops_all_at_its_step() -> None:
    seen: list[int] = []

    class Noting(learning.Watch):
        def keep(self, learnt: learning.Learnt) -> None:
            seen.append(learnt.steps)

    spoilt = run_of(1)
    spoilt.latents = spoilt.latents.clone()
    spoilt.latents[STEPS - 3] = math.nan
    with pytest.raises(FloatingPointError, match=f"not finite at step 3 of {STEPS}, inner step 1"):
        together([run_of(0, Noting()), spoilt], [])
    assert seen == [1, 2], "what the others have finished was kept"
