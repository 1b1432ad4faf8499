"""L-BFGS that keeps what it knows of the curvature from one problem to the next.

Noise levels are neighbours: in units of noise, the least squares problem of one is almost that of
the next. A library's L-BFGS starts each problem from nothing, or mixes gradients of both.

Vectors stay on their device. What is decided and solved is made of their inner products (Chen et
al. 2014), which are read from it once for every gradient. A descent is a generator that yields what
it asks for, so that several run in lock step: one evaluation, and one read, for all that ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

PAIRS = 40
T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """Asks for an `Evaluation` at a point [n]; `again` where its loss is known already."""

    at: Tensor
    again: bool = False


@dataclass(frozen=True)
class Reading:
    """Asks for numbers that lie on a device, in fp64 on the CPU."""

    numbers: Tensor


Evaluation = tuple[float, Callable[[], Tensor]]
"""A loss, and what computes its gradient [n]."""
Asking = Generator[Point | Reading, Any, T]
Descent = Asking[tuple[Tensor, float]]


class Curvature:
    """Pairs of steps and changes of the gradient (Nocedal 1980), and the last gradient.

    `pairs` [2, 40, n]: steps, then changes, newest last, zeros where there are none yet; `grams`
    fp64 [2, 40, 40] on the CPU: S Y^T, of which the upper triangle counts, and Y Y^T. Both are
    replaced, never written into. `products` [81] are of all vectors with the last gradient.
    """

    gradient: Tensor
    products: Tensor

    def __init__(self, like: Tensor) -> None:
        self.pairs = like.new_zeros(2, PAIRS, like.numel())
        self.grams = torch.zeros(2, PAIRS, PAIRS, dtype=torch.float64)

    @property
    def square(self) -> float:
        """|g|^2 of the last gradient."""
        return float(self.products[-1])

    def see(self, gradient: Tensor, step: Tensor | None = None) -> Asking[bool]:
        """Take a gradient [n], and the pair of the step [n] that led to it, by one reading.

        Changes nothing, and says False, where it is not finite. A pair that shows no positive
        curvature is not kept, else the oldest goes.
        """
        if step is None:
            products = yield Reading(_products(self.pairs, gradient[:, None]))
            return self._take(gradient, products[:, 0])
        change = gradient - self.gradient
        pairs = torch.cat((self.pairs[:, 1:], torch.stack((step, change))[:, None]), 1)
        products = yield Reading(_products(pairs, torch.stack((gradient, step, change), 1)))
        square, curvature, length = (
            float(products[row, column])
            for row, column in ((-1, 0), (2 * PAIRS - 1, 1), (PAIRS - 1, 1)))
        if math.isfinite(square) and not curvature > 1e-10 * length:
            return (yield from self.see(gradient))
        if not self._take(gradient, products[:, 0]):
            return False
        grams = self.grams.roll((-1, -1), (1, 2))
        grams[0, :, -1] = products[:PAIRS, 2]
        grams[1, -1] = grams[1, :, -1] = products[PAIRS:-1, 2]
        self.pairs, self.grams = pairs, grams
        return True

    def _take(self, gradient: Tensor, products: Tensor) -> bool:
        if not math.isfinite(products[-1]):
            return False
        self.gradient, self.products = gradient, products
        return True

    def newton_step(self, loss: float) -> tuple[Tensor, float]:
        """(-H g, its slope along g); without pairs the Polyak step towards a loss of zero.

        With R the upper triangle of S Y^T, D its diagonal and r = s y / y y of the newest pair
        (Byrd, Nocedal and Schnabel 1994, eq. 3.1): H g = r g + S^T a - r Y^T w, where w = R^-1 S g
        and a = R^-T ((D + r Y Y^T) w - r Y g).
        """
        count = sum(curvature > 0 for curvature in self.grams[0].diagonal().tolist())
        if not count:
            return self.gradient * (-loss / self.square), -loss
        curvatures, changes = self.grams[:, -count:, -count:]
        ratio = float(curvatures[-1, -1] / changes[-1, -1])
        along = self.products[PAIRS - count : PAIRS, None]
        across = self.products[2 * PAIRS - count : 2 * PAIRS, None]
        upper, diagonal = curvatures.triu(), curvatures.diagonal().diag()
        w = torch.linalg.solve_triangular(upper, along, upper=True)
        a = torch.linalg.solve_triangular(
            upper.T, (diagonal + ratio * changes) @ w - ratio * across, upper=False)
        shares = torch.zeros(2, PAIRS, dtype=torch.float64)
        shares[0, -count:], shares[1, -count:] = -a[:, 0], ratio * w[:, 0]
        shares = shares.flatten()
        slope = float(shares @ self.products[:-1]) - ratio * self.square
        shares = shares.to(self.gradient.dtype).to(self.gradient.device)
        return shares @ self.pairs.flatten(0, 1) - ratio * self.gradient, slope


def _products(pairs: Tensor, vectors: Tensor) -> Tensor:
    """Of all steps, all changes and the first vector with every vector [n, v]: [81, v]."""
    return torch.cat((pairs.flatten(0, 1) @ vectors, vectors[:, :1].T @ vectors))


def overflown() -> None:
    """Where a loss has no scale that could be lowered."""
    raise FloatingPointError("the gradient is not finite")


def descend(
    start: Tensor, curvature: Curvature, evaluations: int, good_enough: float,
    lower: Callable[[], None] = overflown,
) -> Descent:
    """Gives the best point [n] found, and its loss, in at most so many evaluations.

    The gradient is asked only where the descent goes on from. Full steps where they lower the loss,
    else the minimum of the parabola through what is known. Stops at once where the loss is good
    enough. Where a gradient is not finite, `lower` lowers the scale of the loss, or raises, and the
    evaluation is done again.
    """
    best, loss, share = start, math.inf, 1.0
    step: Tensor | None = None
    for _ in range(evaluations):
        move = None if step is None else share * step
        point = start if move is None else best + move
        value, slope = yield Point(point)
        if move is None or value < loss:
            best, loss = point, value
            if loss <= good_enough:
                break
            while not (yield from curvature.see(slope(), move)):
                del slope
                lower()
                _, slope = yield Point(best, again=True)
            del slope  # with it goes what the forward pass kept for its backward pass
            if not curvature.square:
                break
            (step, down), share = curvature.newton_step(loss), 1.0
        else:
            del slope
            fall = share * down
            share *= max(0.1, -fall / (2 * (value - loss - fall)))
    return best, loss


def in_lock_step(
    descents: Sequence[Asking[T]], evaluate: Callable[[dict[int, Point]], Mapping[int, Evaluation]]
) -> list[T]:
    """What descents give, driven together: one call of `evaluate` for all that stand at a point.

    Its keys are places among the descents; those that are done are not among them. Numbers are read
    at once for all that wait for them, before any that stands at a point goes on.
    """
    results: dict[int, T] = {}
    asked = {place: next(descent) for place, descent in enumerate(descents)}
    while asked:
        reading = {i: ask.numbers for i, ask in asked.items() if isinstance(ask, Reading)}
        points = {i: ask for i, ask in asked.items() if isinstance(ask, Point)}
        answers: dict[int, Any] = _read(reading) if reading else {**evaluate(points)}
        for i in [*answers]:
            try:
                asked[i] = descents[i].send(answers.pop(i))
            except StopIteration as finished:
                del asked[i]
                results[i] = finished.value
    return [results[i] for i in range(len(descents))]


def _read(numbers: Mapping[int, Tensor]) -> dict[int, Tensor]:
    read = torch.cat([part.flatten() for part in numbers.values()]).cpu().double()
    parts = read.split([part.numel() for part in numbers.values()])
    return {i: part.view_as(numbers[i]) for i, part in zip(numbers, parts, strict=True)}
