"""Direct inversion: the source row set back on its way after every step."""

from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import guider, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import alignment, data, prompt_to_prompt, schedule

from tests import golden

STEPS, GUIDANCE = 4, 7.5
ALWAYS, NEVER = prompt_to_prompt.Window(0.0, 1.0), prompt_to_prompt.Window(0.0, 0.0)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.load_unet()


@pytest.fixture(scope="module")
def prompts() -> list[data.Conditioning]:
    generator = torch.Generator().manual_seed(21)
    return [[(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(3)]


@pytest.fixture(scope="module")
def trajectory(model: Any, prompts: Any) -> data.Trajectory:
    """A real inversion, which guidance 7.5 does not bring back by itself."""
    with torch.inference_mode():
        levels = schedule.make_levels(STEPS, training_alphas(model))
        latent = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(22))
        samples = vp_to_host(model, latent)
        found = inversion.run_inversion(model, samples, prompts[0], levels)
        assert found.latents is not None
        return data.Trajectory(found.latents, levels, "", "", prompts[0], prompts[2],
                                    found.layers, fingerprint(model))


def edit(prompts: Any, tau_s: prompt_to_prompt.Window) -> prompt_to_prompt.Control:
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    target = prompt_to_prompt.Target("", "replace", prompts[1], same)
    return prompt_to_prompt.Control("", (target,), NEVER, NEVER, tau_s, NEVER)


def sample(model: Any, trajectory: Any, edits: Any, exact: bool) -> torch.Tensor:
    with torch.inference_mode():
        found = sampling.sample_edits(Edit(model, trajectory, None, edits, GUIDANCE, exact))
        return found["samples"] * model.model.latent_format.scale_factor


def test_the_source_comes_back_exactly_without_a_value_embedding(
    model: Any, prompts: Any, trajectory: Any
) -> None:
    for edits in (None, edit(prompts, ALWAYS)):
        exact, plain = (sample(model, trajectory, edits, e)[:1] for e in (True, False))
        assert golden.relative(exact, trajectory.latents[:1]) < 1e-6
        assert golden.relative(plain, trajectory.latents[:1]) > 1e-2


def test_edits_follow_the_exact_source_only_where_they_look_at_it(
    model: Any, prompts: Any, trajectory: Any
) -> None:
    apart, apart_exact = (
        sample(model, trajectory, edit(prompts, NEVER), e)[1] for e in (False, True))
    bound, bound_exact = (
        sample(model, trajectory, edit(prompts, ALWAYS), e)[1] for e in (False, True))
    assert golden.relative(apart_exact, apart) < 1e-5
    assert golden.relative(bound_exact, bound) > 1e-3


def test_a_source_that_already_comes_back_is_left_as_it_is(
    model: Any, prompts: Any, trajectory: Any
) -> None:
    """The way that sampling itself takes, from a callback of the host, is not changed by it."""
    way: list[torch.Tensor] = []

    def callback(step: int, denoised: Any, x: torch.Tensor, total: int) -> None:
        sigma = float(trajectory.levels.sampling_sigmas()[step])
        way.append(x[:1] / (1 + sigma**2) ** 0.5)

    with torch.inference_mode():
        own = guider.P2PlusGuider(Edit(model, trajectory, None, edit(prompts, ALWAYS), GUIDANCE))
        sigmas = trajectory.levels.sampling_sigmas()
        start = vp_to_host(model, trajectory.noise * (1 + float(sigmas[0]) ** 2) ** 0.5)
        euler = comfy.samplers.sampler_object("euler")
        last = own.sample(torch.zeros_like(start), start, euler, sigmas,
                          callback=callback, disable_pbar=True, seed=0)
        clean = model.model.process_latent_in(last[:1])
    latents = torch.cat([clean, *reversed(way)])
    walked = data.Trajectory(**{**vars(trajectory), "latents": latents})
    plain, exact = (sample(model, walked, edit(prompts, ALWAYS), e) for e in (False, True))
    assert golden.relative(exact, plain) < 1e-5
