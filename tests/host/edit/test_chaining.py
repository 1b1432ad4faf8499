"""Patches of other nodes go on to work under ours: theirs and ours are both in the picture."""

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.attention import fused_attention
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

SETTINGS = textbook.Settings(**BASE, threshold=0.8, scale=SCALE, shift=SHIFT)
LAYERS = [(block, number) for block, count in (("input", 12), ("middle", 1), ("output", 12))
          for number in range(count)]
every_edit = pytest.mark.parametrize("name", EDITS)


def picture_tokens(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Four tokens of another encoder, projected: the same for every row."""
    generator = torch.Generator().manual_seed(seed + like.shape[-1])
    return torch.randn(1, 4, like.shape[-1], generator=generator).expand(len(like), -1, -1)


def heard_beside(q: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
    """What an IP-Adapter adds to cross-attention: a second attention, from the row's own query."""
    q = q.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2)
    k, v = (picture_tokens(q.transpose(1, 2).flatten(2), seed)
            .unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for seed in (31, 32))
    maps = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return 0.5 * (maps @ v).transpose(1, 2).flatten(2)


def adapter(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> torch.Tensor:
    return fused_attention(q, k, v, extra) + heard_beside(q, extra)


class WithAdapter(textbook.Controller):
    def cross_attention(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        return super().cross_attention(q, k, v, extra) + heard_beside(q, extra)


class WithStrongLayout(textbook.Controller):
    def self_attention(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        return 1.2 * super().self_attention(q, k, v, extra)


def strong_layout(q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
    return 1.2 * fused_attention(q, k, v, extra)


def louder(n: Any, context: Any, value: Any, extra: Any) -> Any:
    """A patch that gives keys and values another input than the prompt."""
    return n, context * 1.1, value * 0.8 + 0.1


def brighter(n: Any, context: Any, value: Any, extra: Any) -> Any:
    return n * 1.1, context * 1.1, value * 0.9


class Patched:
    """The model with other nodes' patches under those that the textbook hands over."""

    def __init__(self, model: Any, patches: dict[str, Any]) -> None:
        self.model, self.inner, self.patches = self, model.model, patches
        self.model_sampling, self.parameters = model.model.model_sampling, model.model.parameters

    def apply_model(self, x: Any, sigma: Any, c_crossattn: Any, transformer_options: Any) -> Any:
        own = transformer_options["patches"]
        both = {name: [self.patches[name]] if name in self.patches else [] for name in
                ("attn1_patch", "attn2_patch")}
        for name, patches in own.items():
            both[name] = [*both.get(name, []), *patches]
        return self.inner.apply_model(x, sigma, c_crossattn=c_crossattn, transformer_options={
            **transformer_options, "patches": both})


def check(name: str, equip: Callable[[comfy.model_patcher.ModelPatcher], None],
          patches: dict[str, Any] | None = None) -> None:
    with torch.inference_mode():
        model = golden.load_unet()

        def book(under: Any) -> torch.Tensor:
            return vp_to_host(model, textbook.sample(
                under, NOISE, context(1), context(2), [EDITS[name]], SETTINGS, TIMESTEPS)[-1])

        wanted = book(Patched(model, patches or {}))
        plain = book(model) if patches else None
        trajectory, embedding = trajectory_of(model), embedding_of(model)
        equip(model)
        found = sampling.sample_edits(
            Edit(model, trajectory, embedding, control_of(EDITS[name], BASE), 7.5))["samples"]
    for row in (0, 1):
        assert golden.relative(found[row], wanted[row]) < 5e-5, row
    if plain is not None:
        assert golden.relative(wanted, plain) > 1e-2, "the patch must do something"


@every_edit
def test_an_adapter_in_every_layer_is_heard_with_each_rows_own_query(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def equip(model: comfy.model_patcher.ModelPatcher) -> None:
        for block, number in LAYERS:
            model.set_model_attn2_replace(adapter, block, number)

    monkeypatch.setattr(textbook, "Controller", WithAdapter)
    check(name, equip)


@every_edit
def test_an_adapter_at_a_single_transformer_block_is_found_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def equip(model: comfy.model_patcher.ModelPatcher) -> None:
        for block, number in LAYERS:
            model.set_model_attn2_replace(adapter, block, number, 0)

    monkeypatch.setattr(textbook, "Controller", WithAdapter)
    check(name, equip)


class InTiles(textbook.Controller):
    """Self-attention inside each half of the picture, as tiling nodes have it."""

    def self_attention(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        halves = zip(*(tensor.chunk(2, dim=1) for tensor in (q, k, v)), strict=True)
        return torch.cat([super(InTiles, self).self_attention(*half, extra) for half in halves], 1)


class Merged(textbook.Controller):
    """Two neighbours look as one, as token merging has it."""

    def self_attention(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        pairs = q.unflatten(1, (-1, 2)).mean(2)
        return super().self_attention(pairs, k, v, extra).repeat_interleave(2, dim=1)


def tiled(model: comfy.model_patcher.ModelPatcher) -> None:
    def halves(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(1, (2, -1)).flatten(0, 1)

    model.set_model_attn1_patch(lambda n, context, value, extra: (
        halves(n), halves(context), halves(value)))
    model.set_model_attn1_output_patch(lambda out, extra: out.unflatten(0, (-1, 2)).flatten(1, 2))


def merged(model: comfy.model_patcher.ModelPatcher) -> None:
    model.set_model_attn1_patch(lambda n, context, value, extra: (
        n.unflatten(1, (-1, 2)).mean(2), context, value))
    model.set_model_attn1_output_patch(lambda out, extra: out.repeat_interleave(2, dim=1))


@pytest.mark.parametrize(("explicit", "equip"), [(InTiles, tiled), (Merged, merged)])
@every_edit
def test_patches_that_tile_rows_or_merge_tokens_see_the_rows_that_look_together(
    name: str, explicit: Any, equip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textbook, "Controller", explicit)
    check(name, equip)


@every_edit
def test_another_replacement_of_self_attention_sees_the_injected_layout(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def equip(model: comfy.model_patcher.ModelPatcher) -> None:
        for block, number in LAYERS:
            model.set_model_attn1_replace(strong_layout, block, number)

    monkeypatch.setattr(textbook, "Controller", WithStrongLayout)
    check(name, equip)


@every_edit
def test_earlier_patches_of_both_kinds_come_first(name: str) -> None:
    def equip(model: comfy.model_patcher.ModelPatcher) -> None:
        model.set_model_attn1_patch(brighter)
        model.set_model_attn2_patch(louder)

    check(name, equip, {"attn1_patch": brighter, "attn2_patch": louder})


@every_edit
def test_another_nodes_output_patch_of_cross_attention_comes_when_all_rows_are_single_again(
    name: str
) -> None:
    """Ours has rows beside the call's own, and folds them before another patch looks."""
    rows: set[float] = set()

    def look(out: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        rows.add(len(out) / len(extra["cond_or_uncond"]))
        return out

    check(name, lambda model: model.set_model_attn2_output_patch(look))
    assert rows == {2.0}


@every_edit
def test_a_call_that_another_node_makes_with_the_negative_prompt_is_no_conditional_one(
    name: str
) -> None:
    """As SelfAttentionGuidance and PerpNeg do: the negative prompt alone, under our patches."""
    off: list[float] = []

    def again(given: dict[str, Any]) -> torch.Tensor:
        (alone,) = comfy.samplers.calc_cond_batch(
            given["model"], [given["uncond"]], given["input"], given["sigma"],
            given["model_options"])
        off.append(golden.relative(alone, given["uncond_denoised"]))
        plain: torch.Tensor = given["denoised"]
        return plain

    check(name, lambda model: model.set_model_sampler_post_cfg_function(again))
    assert len(off) == len(TIMESTEPS) and max(off) < 1e-5
