"""Edits of random prompts on the recorded UNet: of the textbook, and the same as the pack's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import k_to_vp, vp_to_host
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import (
    alignment,
    data,
    local_blend,
    prompt_to_prompt,
    schedule,
)

from reference import textbook

STEPS, TIMESTEPS, GUIDANCE = 4, [751, 501, 251, 1], 7.5
NOISE = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(9))
LEARNT = torch.Generator().manual_seed(5)
SCALE = 1 + 0.1 * torch.randn(STEPS, 77, 64, generator=LEARNT)
SHIFT = 0.1 * torch.randn(STEPS, 77, 64, generator=LEARNT)
BASE = {"tau_v": (0.0, 0.5), "tau_c": (0.0, 0.6), "tau_s": (0.0, 0.6), "tau_u": (0.0, 0.3)}
WORDS = ([2, 5], [2])


def context(seed: int) -> torch.Tensor:
    return torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed))


def replaced() -> textbook.Edit:
    return textbook.Edit(context(3), torch.eye(77), torch.ones(77))


def refined() -> textbook.Edit:
    mapper, aligned = torch.zeros(77, 77), torch.ones(77)
    mapper[range(2), range(2)] = mapper[range(2, 76), range(3, 77)] = 1
    aligned[2] = 0
    return textbook.Edit(context(3), mapper, aligned)


EDITS = {"replace": replaced(), "refine": refined(), "blend": replace(replaced(), words=WORDS)}


def trajectory_through(
    model: Any, cond: torch.Tensor, uncond: torch.Tensor, latents: torch.Tensor
) -> data.Trajectory:
    """A trajectory of given latents [N + 1, C, h, w] and prompts [1, T, d]."""
    source = [(cond, {})]
    probe = inversion.run_inversion(
        model, vp_to_host(model, latents[-1:]), source,
        schedule.make_levels(1, training_alphas(model)))
    return data.Trajectory(
        latents, schedule.make_levels(len(latents) - 1, training_alphas(model)), "", "", source,
        [(uncond, {})], probe.layers, fingerprint(model))


def trajectory_of(model: Any) -> data.Trajectory:
    return trajectory_through(
        model, context(1), context(2), NOISE.expand(STEPS + 1, -1, -1, -1))


def control_of(
    edit: textbook.Edit, windows: dict[str, tuple[float, float]]
) -> prompt_to_prompt.Control:
    masks = None
    if edit.words is not None:
        rows = torch.zeros(2, 77)
        for side in (0, 1):
            rows[side, edit.words[side]] = 1
        masks = prompt_to_prompt.WordMasks(rows[0], rows[1])
    target = prompt_to_prompt.Target("a boat", "", [(edit.context, {})],
                            alignment.Alignment(edit.mapper, edit.aligned), blend=masks)
    shared = {tau: prompt_to_prompt.Window(*window) for tau, window in windows.items()}
    return prompt_to_prompt.Control("", (target,), **shared, blend=local_blend.Blend(threshold=0.8))


def embedding_of(model: Any) -> data.ValueEmbedding:
    return data.ValueEmbedding(
        SCALE, SHIFT, guidance=GUIDANCE, prompt="", fingerprint=fingerprint(model))


def sampled(
    model: Any, trajectory: data.Trajectory, embedding: data.Embedding | None,
    wanted: prompt_to_prompt.Control | None,
) -> list[torch.Tensor]:
    """VP latents [rows, C, h, w] after every step, by the guider of the Sample node."""
    parts = sampling.sampling_parts(Edit(model, trajectory, embedding, wanted, 0.0))
    seen: list[torch.Tensor] = []

    def callback(step: int, denoised: Any, x: torch.Tensor, total: int) -> None:
        if step:
            seen.append(k_to_vp(x, float(parts.sigmas[step])).clone())

    start = parts.latent["samples"]
    final = parts.guider.sample(torch.zeros_like(start), start, parts.sampler, parts.sigmas,
                                callback=callback, disable_pbar=True, seed=0)
    return [*seen, model.model.process_latent_in(final)]
