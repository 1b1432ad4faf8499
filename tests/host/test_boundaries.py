"""Every tau just at, below and above each of its roundings, against explicit maps."""

import math
from dataclasses import replace
from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.method import prompt_to_prompt

from reference import textbook
from tests import golden
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
            replace(made.targets[0], windows={tau: prompt_to_prompt.Window(0.0, end)})
            for end in ends
        )
        found = sampling.sample_edits(
            Edit(model, trajectory, embedding_of(model), replace(made, targets=targets), GUIDANCE))
        wanted = []
        for end in ends:
            settings = textbook.Settings(**{**BASE, tau: (0.0, end)}, scale=SCALE, shift=SHIFT)
            wanted.append(vp_to_host(model, textbook.sample(
                model, SMALL, context(1), context(2), [refined()], settings, TIMESTEPS)[-1])[1])
    for end, own, same in zip(ends, found["samples"][1:], wanted, strict=True):
        assert golden.relative(own, same) < 5e-5, end
    crossed = [golden.relative(below, above) > 1e-4
               for below, above in zip(wanted[::3], wanted[2::3], strict=True)]
    # At the first step the unconditional rows are still alike, so tau_u changes nothing there.
    assert all(crossed[1:] if tau == "tau_u" else crossed), "a boundary that proves nothing"


def seen_by(model: Any, calls: list[tuple[float, int]], own: list[Any]) -> Any:
    """A MODEL that notes the sigma of every call, and the step that the run was at."""
    watched = model.clone()

    def noted(apply: Any, given: Any) -> Any:
        if own:
            calls.append((float(given["timestep"][0]), own[0].guider.run.step))
        return apply(given["input"], given["timestep"], **given["c"])

    watched.set_model_unet_function_wrapper(noted)
    return watched


@pytest.mark.parametrize(("name", "order"), [
    ("euler", [0, 1, 2, 3]), ("dpmpp_2m", [0, 1, 2, 3]), ("heun", [0, 1, 1, 2, 2, 3, 3, 4]),
])
def test_another_sampler_finds_at_every_sigma_what_is_planned_there(
    name: str, order: list[int]
) -> None:
    """Heun looks at both ends of a step; at the last sigma, behind all steps, the last holds."""
    calls: list[tuple[float, int]] = []
    own: list[Any] = []
    with torch.inference_mode():
        watched = seen_by(golden.load_unet(), calls, own)
        trajectory = trajectory_of(watched)
        parts = sampling.sampling_parts(
            Edit(watched, trajectory, embedding_of(watched), control_of(refined(), BASE), 7.5))
        own.append(parts)
        run(parts.guider, parts, name)
    sigmas = parts.sigmas.tolist()
    nearest = [min(range(STEPS + 1), key=lambda i: abs(sigmas[i] - s)) for s, _ in calls]
    assert nearest[:: len(nearest) // len(order)] == order
    assert [step for _, step in calls] == [min(place, STEPS - 1) for place in nearest]


@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_2m"])
def test_without_an_embedding_another_samplers_source_is_the_hosts_own(name: str) -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        parts = sampling.sampling_parts(
            Edit(model, trajectory_of(model), None, control_of(refined(), BASE), GUIDANCE))
        plain = comfy.samplers.CFGGuider(model)
        plain.set_conds([(context(1), {})], [(context(2), {})])
        plain.set_cfg(GUIDANCE)
        found, wanted, euler = (
            run(guider, parts, sampler)[:1] for guider, sampler in (
                (parts.guider, name), (plain, name), (plain, "euler")))
    unit = (1 + float(parts.sigmas[-1]) ** 2) ** 0.5
    assert golden.relative(found, wanted / unit) < 1e-5
    assert golden.relative(euler, wanted) > 1e-3, "another sampler changes nothing"


def run(guider: Any, parts: Any, name: str) -> torch.Tensor:
    start = parts.latent["samples"]
    sampler = comfy.samplers.sampler_object(name)
    found: torch.Tensor = guider.sample(
        torch.zeros_like(start), start, sampler, parts.sigmas, disable_pbar=True, seed=0)
    return found.cpu()
