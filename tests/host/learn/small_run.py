"""Learning of two steps without an image, on a small latent."""

import functools
from typing import Any

import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import golden
from tests.learning_requests import request


def small_run(
    model: Any, fast: bool = False, form: str = "scale and shift", **settings: Any
) -> data.ValueEmbedding:
    """Two steps of learning without an image, on a small latent."""
    generator = torch.Generator().manual_seed(8)
    cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
    levels = make_levels(2, training_alphas(model))
    samples = torch.randn(1, 4, 16, 24, generator=generator)
    inverted = inversion.run_inversion(model, samples, cond, levels)
    assert inverted.latents is not None
    trajectory = data.Trajectory(
        inverted.latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
    chosen = request(fast, form, **{
        "inner_steps": 3, "first_evaluations": 6, "last_evaluations": 2, **settings})
    return host_learning.learn_value_embedding(model, trajectory, None, None, chosen)


@functools.cache
def plain_run() -> data.ValueEmbedding:
    """That of the recorded UNet as it is, for tests that compare with it."""
    with torch.inference_mode():
        return small_run(golden.reloadable_unet())
