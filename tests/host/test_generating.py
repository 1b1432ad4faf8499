"""A generated picture's way is the host's own Euler over the trajectory's levels."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host import generating, sampling
from stylediffusion_pack.stylediffusion.host import model as patchers

from tests import golden

STEPS, GUIDANCE, SEED = 4, 3.0, 8


@pytest.fixture(scope="module")
def parts() -> Any:
    with torch.inference_mode():
        return loading.load_model(), loading.load_clip()


def wishes(**other: Any) -> generating.PictureWishes:
    usual = {"prompt": "a painting of a red car in the snow", "negative_prompt": "", "width": 192,
             "height": 128, "steps": STEPS, "guidance": GUIDANCE, "seed": SEED}
    return generating.PictureWishes(**{**usual, **other})


def test_the_way_is_ddim_from_the_seeds_noise_written_out(parts: Any) -> None:
    model, clip = parts
    with torch.inference_mode():
        trajectory, latent = generating.generate(model, clip, wishes())
        alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
        z = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(SEED))
        context = torch.cat([trajectory.negative[0][0], trajectory.positive[0][0]])
        way = [z]
        for here, below in ((751, 501), (501, 251), (251, 1), (1, 0)):
            a, b = float(alphas[here]), float(alphas[below])
            x, sigma = z / a**0.5, ((1 - a) / a) ** 0.5
            clean = golden.called(
                model, x.repeat(2, 1, 1, 1), torch.full((2,), sigma), context)
            uncond, cond = ((x - clean) / sigma).chunk(2)
            noise = uncond + GUIDANCE * (cond - uncond)
            z = b**0.5 * (z - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise
            way.insert(0, z)
    assert trajectory.latents.shape == (STEPS + 1, 4, 16, 24)
    torch.testing.assert_close(trajectory.latents, torch.cat(way), rtol=1e-4, atol=1e-4)
    scale = model.get_model_object("latent_format").scale_factor
    torch.testing.assert_close(latent["samples"] * scale, way[0], rtol=1e-4, atol=1e-4)


def test_sample_paints_it_again(parts: Any) -> None:
    model, clip = parts
    with torch.inference_mode():
        trajectory, latent = generating.generate(model, clip, wishes())
        again = sampling.sample_edits(model, trajectory, None, None, GUIDANCE)
    assert golden.relative(again["samples"], latent["samples"]) < 1e-5
    assert trajectory.fingerprint == patchers.fingerprint(model)
    assert {layer.block for layer in trajectory.layers} >= {"input", "output"}
