"""Every family and precision: inversion by the textbook, learning that learns, edits that edit."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion import alignment, artifacts, control, learning, schedule
from stylediffusion_pack.stylediffusion.host import guider, inverting
from stylediffusion_pack.stylediffusion.host import learning as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas

from tests import families, golden

STEPS, HEIGHT, WIDTH = 4, 16, 24


def textbook_inversion(model: Any, latent: torch.Tensor, prompt: Any) -> list[torch.Tensor]:
    """DDIM inversion written out over the host's bare model call, k-diffusion units inside."""
    alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
    levels = [0] + [1 + 1000 // STEPS * i for i in range(STEPS)]
    tensor, extra = prompt[0]
    more = {}
    if "pooled_output" in extra:
        more["y"] = model.model.encode_adm(
            pooled_output=extra["pooled_output"], width=extra["width"], height=extra["height"],
            device="cpu").float()
    found = [latent]
    for k in range(STEPS):
        here, above = float(alphas[levels[k]]), float(alphas[levels[k + 1]])
        sigma = ((1 - above) / above) ** 0.5
        x = latent / above**0.5
        clean = model.model.apply_model(
            x, torch.tensor([sigma]), c_crossattn=tensor, transformer_options={}, **more)
        noise = (x - clean.float()) / sigma
        latent = above**0.5 * (latent - (1 - here) ** 0.5 * noise) / here**0.5 \
            + (1 - above) ** 0.5 * noise
        found.append(latent)
    return found


def photo() -> torch.Tensor:
    return 0.5 * torch.randn(1, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(14))


def invert(model: Any, family: str, latent: torch.Tensor) -> artifacts.Trajectory:
    source, negative = families.prompts(family, 2)
    levels = schedule.make_levels(STEPS, training_alphas(model))
    sampler = inverting.run_inversion(model, inverting.to_host(model, latent), source, levels)
    assert sampler.latents is not None
    return artifacts.Trajectory(
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
        settings = learning.LearningSettings(guidance=3.0, inner_steps=12, learning_rate=0.05)
        embedding = host_learning.learn_value_embedding(
            model, trajectory, None, None, host_learning.LearningWishes(settings))
        wanted = inverting.to_host(model, trajectory.latents[:1])
        plain, learnt = (
            golden.relative(guider.sample_edits(model, trajectory, e, None, 3.0)["samples"], wanted)
            for e in (None, embedding))
    assert embedding.scale.dtype == torch.float32 and embedding.scale.shape == (STEPS, 77, 64)
    assert learnt < 0.8 * plain


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@pytest.mark.parametrize("kept", [77, 3])
def test_edits_of_every_family_differ_from_the_source_and_leave_it_alone(
    family: str, kept: int
) -> None:
    """kept 77: Replace, one attention; 3: Refine, two."""
    with torch.inference_mode():
        model = families.load(family)
        trajectory = invert(model, family, photo())
        aligned = (torch.arange(77) < kept).float()
        target = control.Target(
            "", "", families.prompts(family, 3)[2],
            alignment.Alignment(torch.eye(77) * aligned, aligned))
        half = control.Window(0.0, 0.5)
        edits = control.Control("", (target,), half, half, half, half)
        alone = guider.sample_edits(model, trajectory, None, None, 3.0)["samples"]
        both = guider.sample_edits(model, trajectory, None, edits, 3.0)["samples"]
    assert both.shape == (2, 4, HEIGHT, WIDTH)
    assert golden.relative(both[:1], alone) < 1e-5
    assert golden.relative(both[1:], alone) > 1e-2


def test_a_trajectory_of_another_family_is_refused_with_both_widths() -> None:
    with torch.inference_mode():
        model = families.load("sd15")
        trajectory = invert(model, "sd15", photo())
        wide = [(torch.zeros(1, 77, 2048), {})]
        foreign = artifacts.Trajectory(**{**vars(trajectory), "positive": wide})
        with pytest.raises(ValueError, match="prompts 2048 wide.*BaseModel. has 4 and 64; connect"):
            guider.sample_edits(model, foreign, None, None, 3.0)
