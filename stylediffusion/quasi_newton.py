"""L-BFGS that keeps what it knows of the curvature from one problem to the next.

Noise levels are neighbours: in units of noise, the least squares problem of one is almost that of
the next. A library's L-BFGS starts each problem from nothing, or mixes gradients of both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

Evaluation = Callable[[Tensor], tuple[float, Callable[[], Tensor]]]


@dataclass
class Curvature:
    """Pairs of steps and changes of the gradient (Nocedal 1980); the newest come last."""

    pairs: deque[tuple[Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=40))

    def note(self, step: Tensor, change: Tensor) -> None:
        """Remember a pair, unless it shows no positive curvature."""
        if float(step @ change) > 1e-10 * float(step @ step):
            self.pairs.append((step, change))

    def newton_step(self, gradient: Tensor, loss: float) -> Tensor:
        """-H g by the two-loop recursion; without pairs the Polyak step towards a loss of zero."""
        if not self.pairs:
            return gradient * (-loss / float(gradient @ gradient))
        found, shares = -gradient, []
        for step, change in reversed(self.pairs):
            share = (step @ found) / (step @ change)
            found = found - share * change
            shares.append(share)
        step, change = self.pairs[-1]
        found = found * ((step @ change) / (change @ change))
        for (step, change), share in zip(self.pairs, reversed(shares), strict=True):
            found = found + step * (share - (change @ found) / (step @ change))
        return found


def descend(
    evaluate: Evaluation,
    start: Tensor,
    curvature: Curvature,
    evaluations: int,
    good_enough: float,
) -> tuple[Tensor, float]:
    """The best point found, and its loss, in at most so many evaluations.

    An evaluation gives the loss and what computes its gradient, which is asked only where the
    descent goes on from. Full steps where they lower the loss, else the minimum of the parabola
    through what is known. Stops at once where the loss is good enough.
    """
    best, (loss, slope) = start, evaluate(start)
    if loss <= good_enough:
        return best, loss
    gradient, step, share = slope(), None, 1.0
    del slope  # with it goes what the forward pass kept for its backward pass
    for _ in range(evaluations - 1):
        if not float(gradient @ gradient):
            break
        if step is None:
            step, share = curvature.newton_step(gradient, loss), 1.0
        found, slope = evaluate(best + share * step)
        if found < loss:
            best, loss = best + share * step, found
            if loss <= good_enough:
                break
            before, gradient = gradient, slope()
            del slope
            curvature.note(share * step, gradient - before)
            step = None
        else:
            del slope
            down = share * float(gradient @ step)
            share *= min(0.5, max(0.1, -down / (2 * (found - loss - down))))
    return best, loss
