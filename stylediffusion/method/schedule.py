"""Noise levels of a DDIM trajectory.

Level 0 is the clean end (alpha-bar of timestep 0, not 1); level k = 1..N is the timestep
1 + (1000 // N) * (k - 1). In k-diffusion's terms sigma^2 = (1 - alpha_bar) / alpha_bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TRAINING_TIMESTEPS = 1000
MAX_STEPS = 500
SHALLOW_TIMESTEP = 800


@dataclass(frozen=True)
class Levels:
    """The N + 1 noise levels of a trajectory, clean end first.

    `timesteps` int64 [N], where timesteps[k - 1] belongs to level k; `alphas_cumprod` fp64 [N + 1].
    """

    timesteps: Tensor
    alphas_cumprod: Tensor

    @property
    def steps(self) -> int:
        """N, the number of steps between the first and the last level."""
        return len(self.timesteps)

    @property
    def sigmas(self) -> Tensor:
        """k-diffusion sigmas fp64 [N + 1], clean end first."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def alpha(self, level: int) -> float:
        """alpha-bar of a level."""
        return float(self.alphas_cumprod[level])

    def sampling_sigmas(self) -> Tensor:
        """Sigmas fp32 [N + 1] in sampling order: the noisiest first."""
        return self.sigmas.flip(0).to(torch.float32)


def make_levels(steps: int, alphas_cumprod: Tensor) -> Levels:
    """The levels of a trajectory of N steps under a training schedule alpha-bar [1000].

    Raises ValueError unless 1 <= steps <= 500.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps is {steps}, but must lie between 1 and {MAX_STEPS}")
    timesteps = torch.arange(steps) * (TRAINING_TIMESTEPS // steps) + 1
    training = alphas_cumprod.to("cpu", torch.float64)
    chosen = torch.cat([training[:1], training[timesteps]])
    return Levels(timesteps, chosen)


def deeper_steps(steps: int) -> int | None:
    """The nearest number of steps whose last timestep reaches 800, if this one's does not.

    Integer division makes some numbers stop far from the noise (400 steps end at timestep 799).
    """

    def last_timestep(count: int) -> int:
        return 1 + (TRAINING_TIMESTEPS // count) * (count - 1)

    if last_timestep(steps) >= SHALLOW_TIMESTEP:
        return None
    candidates = (n for n in range(1, MAX_STEPS + 1) if last_timestep(n) >= SHALLOW_TIMESTEP)
    return min(candidates, key=lambda n: abs(n - steps))
