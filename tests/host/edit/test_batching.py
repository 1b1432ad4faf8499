"""However the host batches rows, every one of them is the textbook's."""

import functools
from dataclasses import replace
from typing import Any

import comfy.model_patcher
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host

from reference import textbook
from tests import golden
from tests.edits import (
    BASE,
    EDITS,
    NOISE,
    SCALE,
    SHIFT,
    TIMESTEPS,
    context,
    control_of,
    embedding_of,
    trajectory_of,
)

TOGETHER, CONDITIONAL_ALONE, APART = {(1, 0)}, {(0,)}, {(0,), (1,)}
WINDOWS = {**BASE, "tau_u": (0.0, 0.6)}


class Batches(set[tuple[int, ...]]):
    """Notes which chunks the host runs together, from a patch that changes nothing."""

    def patch(self, n: Any, context: Any, value: Any, extra: dict[str, Any]) -> Any:
        self.add(tuple(extra["cond_or_uncond"]))
        return n, context, value


def negative_of(chunks: int) -> torch.Tensor:
    return torch.cat([context(20 + i) for i in range(chunks)], 1)


@functools.cache
def wanted_rows(name: str, guidance: float, chunks: int) -> torch.Tensor:
    """The textbook's last latents in host units."""
    settings = textbook.Settings(
        **WINDOWS, guidance=guidance, threshold=0.8, scale=SCALE, shift=SHIFT)
    with torch.inference_mode():
        model = golden.load_unet()
        return vp_to_host(model, textbook.sample(
            model, NOISE, context(1), negative_of(chunks), [EDITS[name]], settings, TIMESTEPS)[-1])


def check(name: str, batches: set[tuple[int, ...]], guidance: float = 7.5, chunks: int = 1) -> None:
    """The pack's last latents are the textbook's, and were batched as expected."""
    edit, seen = EDITS[name], Batches()
    wanted = wanted_rows(name, guidance, chunks)
    with torch.inference_mode():
        model = golden.load_unet()
        trajectory = replace(trajectory_of(model), negative=[(negative_of(chunks), {})])
        model.set_model_attn1_patch(seen.patch)
        found = sampling.sample_edits(
            Edit(model, trajectory, embedding_of(model), control_of(edit, WINDOWS), guidance)
        )["samples"]
    assert seen == batches
    for row in (0, 1):
        assert golden.relative(found[row], wanted[row]) < 5e-5, row
    assert golden.relative(wanted[1], wanted[0]) > 1e-3, "rows that are alike prove nothing"


every_edit = pytest.mark.parametrize("name", EDITS)


@every_edit
def test_both_kinds_of_rows_together(name: str) -> None:
    check(name, TOGETHER)


@every_edit
def test_split_where_memory_is_short(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *_: 0)
    check(name, APART)


@every_edit
def test_split_where_the_prompts_lengths_do_not_go_together(name: str) -> None:
    check(name, APART, chunks=5)


@every_edit
def test_prompts_of_two_lengths_that_go_together(name: str) -> None:
    check(name, TOGETHER, chunks=2)


@every_edit
def test_prompts_of_two_lengths_split_where_memory_is_short(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *_: 0)
    check(name, APART, chunks=2)


@every_edit
def test_without_guidance_the_unconditional_rows_are_left_out(name: str) -> None:
    check(name, CONDITIONAL_ALONE, guidance=1.0)
