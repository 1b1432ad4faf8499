"""Models that see an image beside the latent: inpainting checkpoints and InstructPix2Pix."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import memory
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data, schedule

from tests import families, golden
from tests.edits import BASE, EDITS, control_of
from tests.learning_requests import request

STEPS, GUIDANCE = 3, 3.0


def invert(model: Any, family: str) -> data.Trajectory:
    generator = torch.Generator().manual_seed(14)
    samples = 0.5 * torch.randn(1, 4, 24, 32, generator=generator)
    source, negative = families.prompts(family, 2)
    levels = schedule.make_levels(STEPS, training_alphas(model))
    found = inversion.run_inversion(model, vp_to_host(model, samples), source, levels)
    assert found.latents is not None
    return data.Trajectory(
        found.latents, levels, "", "", source, negative, found.layers, fingerprint(model))


@pytest.mark.parametrize(("family", "fast"), [("inpainting", False), ("ip2p", True)])
def test_it_inverts_learns_and_brings_the_picture_back(
    family: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates: list[memory.Estimate] = []
    plan = memory.plan_memory
    monkeypatch.setattr(memory, "plan_memory", lambda model, others, estimate: (
        estimates.append(estimate), plan(model, others, estimate))[1])
    with torch.inference_mode():
        model = families.load(family)
        assert model.model.diffusion_model.in_channels == {"inpainting": 9, "ip2p": 8}[family]
        trajectory = invert(model, family)
        embedding = host_learning.learn_value_embedding(
            model, trajectory, None, None,
            request(fast, guidance=GUIDANCE, inner_steps=8, learning_rate=0.05))
        wanted = vp_to_host(model, trajectory.latents[:1])
        plain, learnt = (golden.relative(
            sampling.sample_edits(Edit(model, trajectory, e, None, GUIDANCE))["samples"], wanted)
            for e in (None, embedding))
        edit = control_of(EDITS["replace"], BASE)
        both = sampling.sample_edits(Edit(model, trajectory, embedding, edit, GUIDANCE))["samples"]
    assert learnt < 0.8 * plain
    for step in range(STEPS):
        losses = [loss.latent for loss in embedding.losses if loss.step == step]
        assert min(losses) < losses[0]
    assert golden.relative(both[:1], wanted) < 0.8 * plain and len(both) == 2
    assert golden.relative(both[1:], both[:1]) > 0.05, "the edit is another picture"
    (estimate,) = estimates
    assert estimate.maps != fast and min(estimate.needed) > 0
