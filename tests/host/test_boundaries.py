"""Every tau just at, below and above each of its roundings, against explicit maps."""

import math
from dataclasses import replace

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion import control
from stylediffusion_pack.stylediffusion.host import inverting, sampling

from tests import golden, textbook
from tests.edits import (
    BASE,
    GUIDANCE,
    SCALE,
    SHIFT,
    STEPS,
    TIMESTEPS,
    context,
    control_of,
    embedding_of,
    refined,
    trajectory_of,
)

SMALL = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
COUNTS = {"tau_v": STEPS, "tau_c": STEPS + 1, "tau_s": STEPS, "tau_u": STEPS}


def around(count: int) -> list[float]:
    """k / count and its neighbours among the numbers, k = 1 ... count - 1."""
    return [near for k in range(1, count)
            for near in (math.nextafter(k / count, 0), k / count, math.nextafter(k / count, 1))]


@pytest.mark.parametrize("tau", COUNTS)
def test_edits_change_where_the_textbooks_do(tau: str) -> None:
    ends = around(COUNTS[tau])
    with torch.inference_mode():
        model = golden.load_unet()
        trajectory = replace(
            trajectory_of(model), latents=SMALL.expand(STEPS + 1, -1, -1, -1))
        made = control_of(refined(), BASE)
        targets = tuple(
            replace(made.targets[0], windows={tau: control.Window(0.0, end)}) for end in ends)
        found = sampling.sample_edits(
            model, trajectory, embedding_of(model), replace(made, targets=targets), GUIDANCE)
        wanted = []
        for end in ends:
            settings = textbook.Settings(**{**BASE, tau: (0.0, end)}, scale=SCALE, shift=SHIFT)
            wanted.append(inverting.to_host(model, textbook.sample(
                model, SMALL, context(1), context(2), [refined()], settings, TIMESTEPS)[-1])[1])
    for end, own, same in zip(ends, found["samples"][1:], wanted, strict=True):
        assert golden.relative(own, same) < 5e-5, end
    crossed = [golden.relative(below, above) > 1e-4
               for below, above in zip(wanted[::3], wanted[2::3], strict=True)]
    # At the first step the unconditional rows are still alike, so tau_u changes nothing there.
    assert all(crossed[1:] if tau == "tau_u" else crossed), "a boundary that proves nothing"


@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_2m"])
def test_another_sampler_may_look_at_the_last_sigma_too(name: str) -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        parts = sampling.sampling_parts(
            model, trajectory_of(model), embedding_of(model), control_of(refined(), BASE), 7.5)
        start = parts.latent["samples"]
        found, euler = (parts.guider.sample(
            torch.zeros_like(start), start, comfy.samplers.sampler_object(sampler), parts.sigmas,
            disable_pbar=True, seed=0) for sampler in (name, "euler"))
    assert 0 < golden.relative(found, euler) < 1
