"""The fast preset's schedule, its state, and the losses it tells of."""

import dataclasses

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import data, lbfgs, learning, quasi_newton

from tests.method.test_learning_together import LEVELS, STEPS, Rows, run_of


def test_the_schedule_is_what_was_measured_to_be_enough() -> None:
    assert dataclasses.astuple(quasi_newton.QuasiNewtonSchedule()) == (
        16, 12, 9, 6, 3e-2, 1e-4, 1 / 6, 5)


@pytest.mark.parametrize(("steps", "closing"), [(6, 5), (30, 5), (31, 6), (60, 10)])
def test_a_first_a_last_and_the_closing_steps_have_numbers_of_their_own(
    steps: int, closing: int
) -> None:
    """A sixth of all steps closes, rounded up, and no fewer than five."""
    schedule = quasi_newton.QuasiNewtonSchedule()
    between = steps - 1 - closing
    assert [schedule.most_evaluations(i, steps) for i in range(steps)] == [
        12, *[16] * between, *[9] * (closing - 1), 6]
    assert [schedule.good_enough_at(i, steps) for i in range(steps)] == [
        *[3e-2] * (1 + between), *[1e-4] * closing]


class Keeping(learning.Watch):
    def __init__(self) -> None:
        self.kept: list[learning.Learnt] = []

    def keep(self, learnt: learning.Learnt) -> None:
        self.kept.append(dataclasses.replace(learnt))


def test_losses_are_counted_within_a_step_and_have_no_part_of_attention() -> None:
    found = learning.learn(Rows([2], []), run_of(2)).losses
    counts = [[loss.inner for loss in found if loss.step == step] for step in range(STEPS)]
    assert all(inner == list(range(len(inner))) for inner in counts) and max(map(len, counts)) > 2
    assert {loss.attention for loss in found} == {0.0}


def test_a_run_goes_on_from_its_state_to_the_bit() -> None:
    watch = Keeping()
    whole = learning.learn(Rows([1], []), run_of(1, watch))
    begun = watch.kept[1]
    resumed = learning.learn(Rows([1], []), run_of(1, begun=begun))
    assert resumed.losses == whole.losses
    assert torch.equal(resumed.shift, whole.shift)


def test_every_part_of_a_state_is_taken_over() -> None:
    run = run_of(1)
    like = run.solver.state()
    state = {name: torch.full_like(tensor, 3) for name, tensor in like.items()}
    run.solver.restore(state)
    for name, tensor in run.solver.state().items():
        assert torch.equal(tensor, state[name]), name
    assert run.solver.loss_scale.lowered == 3


def test_the_unit_of_a_loss_is_what_a_step_of_noise_moves_the_latent() -> None:
    """z' is linear in eps, so its coefficient is the difference of two moves."""
    for level in range(1, STEPS + 1):
        alphas = LEVELS.alpha(level), LEVELS.alpha(level - 1)
        a, b = (quasi_newton_move(alphas, noise) for noise in (1.0, 2.0))
        assert quasi_newton.noise_coefficient(*alphas) == pytest.approx(b - a)


def quasi_newton_move(alphas: tuple[float, float], noise: float) -> float:
    """Song et al. 2020, equation 12, of a latent of 1."""
    here, below = alphas
    clean = (1 - (1 - here) ** 0.5 * noise) / here**0.5
    return below**0.5 * clean + (1 - below) ** 0.5 * noise


def test_a_gradient_is_that_of_the_loss_in_units_of_the_noise() -> None:
    run, model = run_of(0), Rows([0], [])
    step = run.begin(model.noise(run.learnt.latent, STEPS), [])
    evaluations = quasi_newton.Evaluations(
        lambda rows: model, [quasi_newton.Search(run.solver, step, lambda loss: None)])
    start = run.solver.point.flatten()
    along = torch.randn(len(start), generator=torch.Generator().manual_seed(1)).double()

    def at(share: float) -> lbfgs.Evaluation:
        return evaluations({0: lbfgs.Point(start + share * along)})[0]

    with torch.enable_grad():
        (loss, slope), more, less = at(0.0), at(1e-5)[0], at(-1e-5)[0]
        assert float(slope() @ along) == pytest.approx((more - less) / 2e-5, rel=1e-5)
    unit = 3.0 * (quasi_newton_move(step.alphas, 2.0) - quasi_newton_move(step.alphas, 1.0))
    reached = model.noise_with(step.latent, STEPS, torch.ones(1, 77, 6), torch.zeros(1, 77, 6),
                               False)[0]
    noise = step.noise + 3.0 * (reached - step.noise)
    clean = (step.latent - (1 - step.alphas[0]) ** 0.5 * noise) / step.alphas[0] ** 0.5
    moved = step.alphas[1] ** 0.5 * clean + (1 - step.alphas[1]) ** 0.5 * noise
    assert loss == pytest.approx(float(((moved - step.wanted_latent) / unit).square().mean()))


def test_the_next_step_starts_where_this_one_ended() -> None:
    run, model = run_of(3), Rows([3], [])
    step = run.begin(model.noise(run.learnt.latent, STEPS), [])
    with torch.enable_grad():
        solution = run.solver.solve(model, step, run.note)
    assert len(run.losses) > 1 and solution.shift.any()
    assert torch.equal(run.solver.point, torch.cat([solution.scale, solution.shift]))


def test_the_best_that_was_seen_is_kept() -> None:
    run = run_of(0)
    step = run.begin(torch.zeros_like(run.learnt.latent), [])
    seen: list[data.InnerLoss] = []
    search = quasi_newton.Search(run.solver, step, seen.append)
    solutions = [learning.Solution(*torch.full((4, 1), float(i)).unbind()) for i in range(3)]
    assert [search.see(loss, 2.0, one) for loss, one in zip(
        (4.0, 1.0, 8.0), solutions, strict=True)] == [1.0, 0.25, 2.0]
    assert search.best is solutions[1] and search.lowest == 0.25 and search.count == 3
    assert [(loss.inner, loss.latent) for loss in seen] == [(0, 4.0), (1, 1.0), (2, 8.0)]
