"""Every family and precision: inversion by the textbook, learning that learns, edits that edit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data, schedule

from reference import textbook
from tests import families, golden
from tests.edits import (
    BASE,
    EDITS,
    GUIDANCE,
    SCALE,
    SHIFT,
    TIMESTEPS,
    control_of,
    embedding_of,
)
from tests.learning_requests import request

STEPS, HEIGHT, WIDTH = 4, 16, 24


def heard_beside(model: Any, prompt: Any) -> dict[str, torch.Tensor]:
    """SDXL's pooled prompt and sizes, as its UNet takes them; nothing for other families."""
    extra = prompt[0][1]
    if "pooled_output" not in extra:
        return {}
    return {"y": model.model.encode_adm(
        pooled_output=extra["pooled_output"], width=extra["width"], height=extra["height"],
        device="cpu").float()}


def textbook_inversion(model: Any, latent: torch.Tensor, prompt: Any) -> list[torch.Tensor]:
    """DDIM inversion written out over the host's bare model call, k-diffusion units inside."""
    alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
    levels = [0] + [1 + 1000 // STEPS * i for i in range(STEPS)]
    more, found = heard_beside(model, prompt), [latent]
    for k in range(STEPS):
        here, above = float(alphas[levels[k]]), float(alphas[levels[k + 1]])
        sigma = ((1 - above) / above) ** 0.5
        x = latent / above**0.5
        clean = textbook.called(model, x, torch.tensor([sigma]), prompt[0][0], **more)
        noise = (x - clean.float()) / sigma
        latent = above**0.5 * (latent - (1 - here) ** 0.5 * noise) / here**0.5 \
            + (1 - above) ** 0.5 * noise
        found.append(latent)
    return found


def photo() -> torch.Tensor:
    return 0.5 * torch.randn(1, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(14))


def invert(model: Any, family: str, latent: torch.Tensor) -> data.Trajectory:
    source, negative = families.prompts(family, 2)
    levels = schedule.make_levels(STEPS, training_alphas(model))
    sampler = inversion.run_inversion(model, vp_to_host(model, latent), source, levels)
    assert sampler.latents is not None
    return data.Trajectory(
        sampler.latents, levels, "", "", source, negative, sampler.layers, fingerprint(model))


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_inversion_is_the_textbooks(family: str) -> None:
    with torch.inference_mode():
        model, latent = families.load(family), photo()
        found = invert(model, family, latent).latents
        wanted = textbook_inversion(model, latent, families.prompts(family, 1)[0])
    for k, expected in enumerate(wanted):
        assert golden.relative(found[k : k + 1], expected) < 2e-5, k


@pytest.mark.parametrize(("family", "dtype"), [
    ("sd15", torch.float32), ("sd2", torch.float32), ("sdxl", torch.float32),
    ("sd15", torch.bfloat16), ("sdxl", torch.bfloat16), ("sd15", torch.float16),
    ("sd15", torch.float8_e4m3fn),
])
def test_learning_brings_the_picture_back_that_plain_ddim_loses(
    family: str, dtype: torch.dtype
) -> None:
    with torch.inference_mode():
        model = families.load(family, dtype)
        trajectory = invert(model, family, photo())
        embedding = host_learning.learn_value_embedding(
            model, trajectory, None, None, request(guidance=3.0))
        wanted = vp_to_host(model, trajectory.latents[:1])
        plain, learnt = (
            golden.relative(
                sampling.sample_edits(Edit(model, trajectory, e, None, 3.0))["samples"], wanted)
            for e in (None, embedding))
    assert embedding.scale.dtype == torch.float32 and embedding.scale.shape == (STEPS, 77, 64)
    assert learnt < 0.8 * plain


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@pytest.mark.parametrize("name", EDITS)
def test_edits_of_every_family_are_the_textbooks(family: str, name: str) -> None:
    with torch.inference_mode():
        model = families.load(family)
        trajectory = invert(model, family, photo())
        own = families.prompts(family, 3)[2]
        rows = [trajectory.negative] * 2 + [trajectory.positive, own]
        made = control_of(replace(EDITS[name], context=own[0][0]), BASE)
        made = replace(made, targets=(replace(made.targets[0], conditioning=own),))
        found = sampling.sample_edits(Edit(model, trajectory, embedding_of(model), made, GUIDANCE))
        more = [heard_beside(model, prompt) for prompt in rows]
        wanted = textbook.sample(
            model, trajectory.noise, trajectory.positive[0][0], trajectory.negative[0][0],
            [replace(EDITS[name], context=own[0][0])],
            textbook.Settings(**BASE, threshold=0.8, scale=SCALE, shift=SHIFT), TIMESTEPS,
            **{key: torch.cat([each[key] for each in more]) for key in more[0]})[-1]
    for row, expected in zip(found["samples"], vp_to_host(model, wanted), strict=True):
        assert golden.relative(row, expected) < 5e-5


def test_a_trajectory_of_another_family_is_refused_with_both_widths() -> None:
    with torch.inference_mode():
        model = families.load("sd15")
        trajectory = invert(model, "sd15", photo())
        wide = [(torch.zeros(1, 77, 2048), {})]
        foreign = data.Trajectory(**{**vars(trajectory), "positive": wide})
        with pytest.raises(ValueError, match="prompts 2048 wide.*BaseModel. has 4 and 64; connect"):
            sampling.sample_edits(Edit(model, foreign, None, None, 3.0))
