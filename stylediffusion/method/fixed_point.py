"""A more exact inversion: each step solved as the implicit equation that sampling will undo.

Sampling goes from z_{k+1} to z_k with the noise found on z_{k+1}. DDIM inversion, which does not
have z_{k+1} yet, takes the noise found on z_k; here z_{k+1} is sought that fulfils

    z_{k+1} = a z_k + b eps(z_{k+1}, t_{k+1}),

with a and b of `ddim.py: transfer`, by fixed-point iteration (Pan et al. 2023; Meiri et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ddim import NoisePredictor, transfer
from .schedule import Levels

DDIM, FIXED_POINT, ANDERSON, EASY = "DDIM", "fixed point", "Anderson", "EasyInv"
INVERSIONS = (DDIM, FIXED_POINT, ANDERSON, EASY)
ANDERSON_DEPTH = 2
TOLERANCE = 1e-5


@dataclass(frozen=True)
class FixedPoint:
    """So many iterations after DDIM's own, which is the first; `depth` is Anderson's memory.

    A step ends sooner where the residual |f(z) - z| / |f(z)| is below the tolerance, and goes back
    to the best z where the residual has grown.
    """

    iterations: int
    depth: int = 0
    tolerance: float = TOLERANCE

    def __call__(
        self, predict_noise: NoisePredictor, latent: Tensor, following: Tensor, k: int,
        levels: Levels,
    ) -> Tensor:
        """z_{k+1} from z_k [1, C, h, w] and what DDIM makes of it."""
        points, images = [latent], [following]
        last = float((following - latent).norm() / following.norm())
        for _ in range(self.iterations):
            point = next_point(points, images, self.depth)
            noise = predict_noise(point, k + 1)
            image = transfer(latent, noise, levels.alpha(k), levels.alpha(k + 1))
            residual = float((image - point).norm() / image.norm())
            if not residual < last:
                return points[-1] if len(points) > 1 else following
            points, images, last = [*points, point], [*images, image], residual
            if residual < self.tolerance:
                break
        return next_point(points, images, self.depth)


def next_point(points: list[Tensor], images: list[Tensor], depth: int) -> Tensor:
    """Where to look next, of points z_i and their images f(z_i), the latest last.

    f(z) itself, or with a depth Anderson's mixture (Walker and Ni 2011): the f(z_i) of the last
    few, less those shares of their differences that make the residual f(z) - z smallest.
    """
    depth = min(depth, len(points) - 1)
    if depth == 0:
        return images[-1]
    residuals = [image - point for point, image in zip(points, images, strict=True)]
    steps = differences(residuals, depth)
    gram = torch.stack([torch.stack([(a * b).sum() for b in steps]) for a in steps])
    wanted = torch.stack([(a * residuals[-1]).sum() for a in steps])
    shares = torch.linalg.lstsq(
        gram.double().cpu(), wanted.double().cpu().unsqueeze(-1), driver="gelsd").solution
    mixture = images[-1]
    for share, step in zip(shares.flatten().tolist(), differences(images, depth), strict=True):
        mixture = mixture - share * step
    return mixture


def differences(tensors: list[Tensor], depth: int) -> list[Tensor]:
    """The last few differences of neighbours."""
    return [after - before for before, after in
            zip(tensors[-depth - 1 : -1], tensors[-depth:], strict=True)]


@dataclass(frozen=True)
class Averaging:
    """EasyInv (Zhang et al. 2024): in a share of the steps, the mean of the latent and the last.

    No evaluation more; the bounds are the authors' for SD1.x.
    """

    after: float = 0.05
    before: float = 0.25

    def __call__(
        self, predict_noise: NoisePredictor, latent: Tensor, following: Tensor, k: int,
        levels: Levels,
    ) -> Tensor:
        """z_{k+1} from z_k [1, C, h, w] and what DDIM makes of it."""
        if not self.after * levels.steps < k < self.before * levels.steps:
            return following
        return 0.5 * following + 0.5 * latent


def refinement(inversion: str, iterations: int) -> FixedPoint | Averaging | None:
    """What follows each DDIM step; None where nothing does.

    Raises ValueError for an inversion that is not one of `INVERSIONS`.
    """
    if inversion not in INVERSIONS:
        raise ValueError(f"inversion is '{inversion}', but must be one of {', '.join(INVERSIONS)}")
    if inversion == EASY:
        return Averaging()
    if inversion == DDIM or iterations == 0:
        return None
    return FixedPoint(iterations, ANDERSON_DEPTH if inversion == ANDERSON else 0)
