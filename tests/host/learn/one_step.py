"""Learning of one step, for tests that look at what a run needs."""

from typing import Any

import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests.learning_requests import request


def learn(model: Any, height: int, width: int) -> data.ValueEmbedding:
    """One step of two evaluations on a latent of this size."""
    generator = torch.Generator().manual_seed(8)
    cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
    levels = make_levels(1, training_alphas(model))
    samples = torch.randn(1, 4, height, width, generator=generator)
    inverted = inversion.run_inversion(model, samples, cond, levels)
    assert inverted.latents is not None
    trajectory = data.Trajectory(
        inverted.latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
    return host_learning.learn_value_embedding(
        model, trajectory, None, None, request(first_evaluations=2, good_enough_closing=0.0))
