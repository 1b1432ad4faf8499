"""Quasi-Newton steps on problems with a known answer."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import lbfgs
from stylediffusion_pack.stylediffusion.method.lbfgs import Curvature

ZEROS = torch.zeros(12, dtype=torch.float64)
Evaluate = Callable[[torch.Tensor], tuple[float, Callable[[], torch.Tensor]]]


def driven(asking: Any, evaluate: Evaluate | None = None) -> Any:
    """What one that asks gives, by itself."""
    def evaluated(asked: dict[int, lbfgs.Point]) -> dict[int, lbfgs.Evaluation]:
        assert evaluate is not None
        return {place: evaluate(point.at) for place, point in asked.items()}

    return lbfgs.in_lock_step([asking], evaluated)[0]


def descend(
    evaluate: Evaluate, start: torch.Tensor, curvature: Curvature, evaluations: int,
    good_enough: float, lower: Callable[[], None] = lbfgs.overflown,
) -> tuple[torch.Tensor, float]:
    found: tuple[torch.Tensor, float] = driven(
        lbfgs.descend(start, curvature, evaluations, good_enough, lower), evaluate)
    return found


def least_squares(seed: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return matrix, torch.randn(size, generator=generator, dtype=torch.float64)


class Problem:
    """|A x - b|^2 / 2, with every evaluation and every gradient counted."""

    def __init__(self, matrix: torch.Tensor, wanted: torch.Tensor) -> None:
        self.matrix, self.wanted, self.count, self.gradients = matrix, wanted, 0, 0

    def __call__(self, x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        self.count += 1
        residual = self.matrix @ x - self.wanted

        def gradient() -> torch.Tensor:
            self.gradients += 1
            return self.matrix.T @ residual

        return float(residual @ residual) / 2, gradient


def knowing(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Curvature:
    """What is known after steps and changes of the gradient, the first from a gradient of zero."""
    known, gradient = Curvature(pairs[0][0]), torch.zeros_like(pairs[0][0])
    driven(known.see(gradient))
    for step, change in pairs:
        gradient = gradient + change
        driven(known.see(gradient, step))
    return known


def two_loops(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], gradient: torch.Tensor
) -> torch.Tensor:
    """-H g, by the recursion of Nocedal 1980 as it stands there."""
    found, shares = -gradient, []
    for step, change in reversed(pairs):
        shares.append((step @ found) / (step @ change))
        found = found - shares[-1] * change
    step, change = pairs[-1]
    found = found * ((step @ change) / (change @ change))
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        found = found + step * (share - (change @ found) / (step @ change))
    return found


def drawn_pairs(
    count: int, size: int, seed: int = 5, curved: float = 1.0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Steps, and changes that no matrix makes of them, all of one sign of curvature."""
    generator = torch.Generator().manual_seed(seed)
    steps, off = torch.randn(2, count, size, generator=generator, dtype=torch.float64)
    return [(s, curved * (s + 0.3 * o)) for s, o in zip(steps, off, strict=True)]


@pytest.mark.parametrize("count", [1, 7, 40, 55])
def test_a_step_is_that_of_the_two_loops_over_the_newest_forty_pairs(count: int) -> None:
    pairs = drawn_pairs(count, 90)
    known, gradient = knowing(pairs), sum(change for _, change in pairs)
    step, slope = known.newton_step(1.0)
    wanted = two_loops(pairs[-40:], torch.as_tensor(gradient))
    torch.testing.assert_close(step, wanted, rtol=1e-9, atol=1e-9)
    assert slope == pytest.approx(float(wanted @ gradient), rel=1e-9)
    assert known.square == pytest.approx(float(torch.as_tensor(gradient).square().sum()))


@pytest.mark.parametrize("before", [3, 45])
def test_a_pair_of_negative_curvature_is_not_kept_and_its_gradient_is(before: int) -> None:
    pairs, bad = drawn_pairs(before, 90), drawn_pairs(1, 90, 6, -1.0)
    known = knowing(pairs + bad)
    gradient = torch.as_tensor(sum(change for _, change in pairs + bad))
    torch.testing.assert_close(
        known.newton_step(1.0)[0], two_loops(pairs[-40:], gradient), rtol=1e-9, atol=1e-9)
    good = drawn_pairs(1, 90, 7)
    driven(known.see(gradient + good[0][1], good[0][0]))
    torch.testing.assert_close(
        known.newton_step(1.0)[0], two_loops((pairs + good)[-40:], gradient + good[0][1]),
        rtol=1e-9, atol=1e-9)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    pairs = drawn_pairs(4, 9)
    known, untouched = knowing(pairs), knowing(pairs)
    for step in (None, torch.ones(9, dtype=torch.float64)):
        for bad in (torch.inf, torch.nan):
            assert not driven(
                known.see(torch.full((9,), bad, dtype=torch.float64), step))
    assert torch.equal(known.newton_step(1.0)[0], untouched.newton_step(1.0)[0])


def test_a_parabola_in_one_dimension_is_solved_by_polyak_and_one_newton_step() -> None:
    problem = Problem(torch.tensor([[3.0]]), torch.tensor([6.0]))
    x, loss = descend(problem, torch.zeros(1), Curvature(torch.zeros(1)), 3, 0.0)
    assert torch.allclose(x, torch.tensor([2.0])) and loss < 1e-9


def test_least_squares_is_solved() -> None:
    problem = Problem(*least_squares(1))
    x, loss = descend(problem, ZEROS, Curvature(ZEROS), 300, 1e-12)
    answer = torch.linalg.solve(problem.matrix, problem.wanted)
    assert loss <= 1e-12 and problem.count < 300
    assert torch.allclose(x, answer, atol=1e-3)


def test_a_neighbouring_problem_is_solved_sooner_with_the_curvature_of_the_last() -> None:
    matrix, wanted = least_squares(2)
    matrix = torch.eye(12, dtype=torch.float64) + 0.1 * matrix
    known = Curvature(ZEROS)
    start, _ = descend(Problem(matrix, wanted), ZEROS, known, 60,
                       1e-10)
    moved = wanted + 0.1 * least_squares(3)[1]
    warm, cold = Problem(matrix, moved), Problem(matrix, moved)
    descend(warm, start, known, 60, 1e-6)
    descend(cold, start, Curvature(ZEROS), 60, 1e-6)
    assert warm.count < cold.count


def test_it_stops_where_the_loss_is_good_enough_and_at_the_last_evaluation() -> None:
    problem = Problem(*least_squares(4))
    descend(problem, ZEROS, Curvature(ZEROS), 5, 0.0)
    assert problem.count == 5
    problem.count = 0
    descend(problem, ZEROS, Curvature(ZEROS), 5, 1e9)
    assert problem.count == 1


def test_no_gradient_is_computed_where_the_loss_is_good_enough() -> None:
    problem = Problem(torch.tensor([[3.0]]), torch.tensor([6.0]))
    descend(problem, torch.zeros(1), Curvature(torch.zeros(1)), 9, 1e9)
    assert (problem.count, problem.gradients) == (1, 0)
    descend(problem, torch.zeros(1), Curvature(torch.zeros(1)), 9, 1e-9)
    assert (problem.count, problem.gradients) == (4, 2), "start, Polyak's point, then the answer"


def test_a_step_that_would_climb_is_shortened_until_it_falls() -> None:
    asked: list[float] = []

    def narrow(x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        def gradient() -> torch.Tensor:
            asked.append(float(x))
            return 4 * x**3

        return float((x**4).sum()), gradient

    misled = knowing([(torch.ones(1), torch.full((1,), 1e-3))])
    x, loss = descend(narrow, torch.ones(1), misled, 12, 0.0)
    assert loss < 1.0 and abs(float(x)) < 1.0
    assert all(abs(x) <= 1.0 for x in asked), "no gradient where the step climbed"


def test_what_an_evaluation_keeps_is_gone_before_the_next_begins() -> None:
    problem, alive = Problem(*least_squares(3)), []

    class Slope:
        def __init__(self, gradient: Callable[[], torch.Tensor]) -> None:
            self.gradient = gradient

        def __call__(self) -> torch.Tensor:
            return self.gradient()

    def evaluate(x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        assert not any(slope() for slope in alive)
        loss, gradient = problem(x)
        kept = Slope(gradient)
        alive.append(weakref.ref(kept))
        return loss, kept

    descend(evaluate, ZEROS, Curvature(ZEROS), 40, 0.0)
    assert len(alive) == 40 and 1 < problem.gradients < 40, "some were accepted, some were not"


def test_after_a_shortened_step_the_pair_is_of_the_part_that_was_taken() -> None:
    """f = x^2 + 1 from x = 1, known to be flatter than it is: -H g = -20 is tried, then a tenth."""
    tried: list[float] = []

    def parabola(x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        tried.append(float(x))
        return float((x**2).sum()) + 1, lambda: 2 * x

    misled = knowing([(torch.ones(1), torch.full((1,), 0.1))])
    descend(parabola, torch.ones(1), misled, 4, 0.0)
    # The parabola through f(1), f'(1) and f(-19) has its minimum at a twentieth of the step: no
    # less than a tenth is taken, so 1 -> -1, no better, and then half of it.
    assert tried == pytest.approx([1.0, -19.0, -1.0, 0.0], abs=1e-5)
    step, change = misled.pairs[:, -1]
    assert float(step) == pytest.approx(-1.0) and float(change) == pytest.approx(-2.0)


def test_where_the_gradient_is_zero_it_ends() -> None:
    count: list[int] = []

    def flat(x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        count.append(1)
        return 1.0, lambda: torch.zeros_like(x)

    assert descend(flat, ZEROS, Curvature(ZEROS), 9, 0.0)[1] == 1.0
    assert len(count) == 1


def test_a_gradient_that_overflows_is_computed_again_once_the_scale_is_lowered() -> None:
    problem, scale = Problem(*least_squares(6)), [3]

    def evaluate(x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        loss, gradient = problem(x)
        return loss, lambda: gradient() + (torch.inf if scale[0] else 0.0)

    def lower() -> None:
        scale[0] -= 1

    found, loss = descend(evaluate, ZEROS, Curvature(ZEROS), 9, 0.0, lower)
    assert problem.count == 9 + 3
    other = Problem(*least_squares(6))
    wanted, same = descend(other, ZEROS, Curvature(ZEROS), 9, 0.0)
    assert torch.equal(found, wanted) and loss == same
    scale[0] = 1
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        descend(evaluate, ZEROS, Curvature(ZEROS), 9, 0.0)


def test_a_step_of_zero_and_one_without_curvature_worth_a_number_leave_no_pair() -> None:
    step = torch.tensor([2.0, 0.0], dtype=torch.float64)
    for curvature, kept in ((0.0, 0), (0.9e-10, 0), (1.1e-10, 1)):
        known = Curvature(step)
        driven(known.see(torch.ones(2, dtype=torch.float64)))
        change = torch.tensor([curvature * 2.0, 1.0], dtype=torch.float64)  # s y = curvature * s s
        driven(known.see(torch.ones(2, dtype=torch.float64) + change, step))
        assert int(known.pairs[0].any(1).sum()) == kept, curvature
    pairs = drawn_pairs(3, 9)
    known, before = knowing(pairs), knowing(pairs).pairs
    driven(known.see(known.gradient, torch.zeros(9, dtype=torch.float64)))
    assert torch.equal(known.pairs, before)


def test_it_stops_where_the_loss_is_just_good_enough() -> None:
    problem = Problem(torch.tensor([[3.0]]), torch.tensor([6.0]))
    descend(problem, torch.zeros(1), Curvature(torch.zeros(1)), 9, 18.0)
    assert problem.count == 1, "|0 - 6|^2 / 2 = 18"


def test_a_step_that_climbs_goes_on_at_the_minimum_of_the_parabola() -> None:
    """f(0) = 2 with a slope of -2: Polyak's step goes to 1, where a line would reach zero."""
    losses, tried, again = [2.0, 3.0, 2.5, 0.5], [], []
    descent = lbfgs.descend(torch.zeros(1, dtype=torch.float64),
                            Curvature(torch.zeros(1, dtype=torch.float64)), 4, 0.0, lambda: None)
    gradients = iter([torch.tensor([torch.inf]), torch.tensor([-2.0]), torch.tensor([-2.0])])

    def evaluate(asked: dict[int, lbfgs.Point]) -> dict[int, lbfgs.Evaluation]:
        tried.append(float(asked[0].at))
        again.append(asked[0].again)
        loss = losses[len([one for one in again if not one]) - 1]
        return {0: (loss, lambda: next(gradients).double())}

    lbfgs.in_lock_step([descent], evaluate)
    assert again == [False, True, False, False, False], "the first gradient overflowed"
    # fall = -2: 2 / (2 (3 - 2 + 2)) = 1/3 of it; then fall = -2/3: (2/3) / (2 (.5 + 2/3)) = 2/7
    assert tried == pytest.approx([0, 0, 1, 1 / 3, 1 / 3 * 2 / 7])
