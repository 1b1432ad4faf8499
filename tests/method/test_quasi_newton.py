"""Quasi-Newton steps on problems with a known answer."""

import weakref
from collections.abc import Callable

import torch
from stylediffusion_pack.stylediffusion.quasi_newton import Curvature, descend


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


def test_a_parabola_in_one_dimension_is_solved_by_polyak_and_one_newton_step() -> None:
    problem = Problem(torch.tensor([[3.0]]), torch.tensor([6.0]))
    x, loss = descend(problem, torch.zeros(1), Curvature(), 3, 0.0)
    assert torch.allclose(x, torch.tensor([2.0])) and loss < 1e-9


def test_least_squares_is_solved() -> None:
    problem = Problem(*least_squares(1))
    x, loss = descend(problem, torch.zeros(12, dtype=torch.float64), Curvature(), 300, 1e-12)
    answer = torch.linalg.solve(problem.matrix, problem.wanted)
    assert loss <= 1e-12 and problem.count < 300
    assert torch.allclose(x, answer, atol=1e-3)


def test_a_neighbouring_problem_is_solved_sooner_with_the_curvature_of_the_last() -> None:
    matrix, wanted = least_squares(2)
    matrix = torch.eye(12, dtype=torch.float64) + 0.1 * matrix
    known = Curvature()
    start, _ = descend(Problem(matrix, wanted), torch.zeros(12, dtype=torch.float64), known, 60,
                       1e-10)
    moved = wanted + 0.1 * least_squares(3)[1]
    warm, cold = Problem(matrix, moved), Problem(matrix, moved)
    descend(warm, start, known, 60, 1e-6)
    descend(cold, start, Curvature(), 60, 1e-6)
    assert warm.count < cold.count


def test_it_stops_where_the_loss_is_good_enough_and_at_the_last_evaluation() -> None:
    problem = Problem(*least_squares(4))
    descend(problem, torch.zeros(12, dtype=torch.float64), Curvature(), 5, 0.0)
    assert problem.count == 5
    problem.count = 0
    descend(problem, torch.zeros(12, dtype=torch.float64), Curvature(), 5, 1e9)
    assert problem.count == 1


def test_no_gradient_is_computed_where_the_loss_is_good_enough() -> None:
    problem = Problem(torch.tensor([[3.0]]), torch.tensor([6.0]))
    descend(problem, torch.zeros(1), Curvature(), 9, 1e9)
    assert (problem.count, problem.gradients) == (1, 0)
    descend(problem, torch.zeros(1), Curvature(), 9, 1e-9)
    assert (problem.count, problem.gradients) == (4, 2), "start, Polyak's point, then the answer"


def test_a_step_that_would_climb_is_shortened_until_it_falls() -> None:
    asked: list[float] = []

    def narrow(x: torch.Tensor) -> tuple[float, Callable[[], torch.Tensor]]:
        def gradient() -> torch.Tensor:
            asked.append(float(x))
            return 4 * x**3

        return float((x**4).sum()), gradient

    misled = Curvature()
    misled.note(torch.ones(1), torch.full((1,), 1e-3))
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

    descend(evaluate, torch.zeros(12, dtype=torch.float64), Curvature(), 40, 0.0)
    assert len(alive) == 40 and 1 < problem.gradients < 40, "some were accepted, some were not"
