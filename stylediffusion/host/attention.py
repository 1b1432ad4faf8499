"""Attention by the host's own hooks: chaining patches, recording maps, the value input.

The host calls a patch with the rows of every prompt that it runs together; `cond_or_uncond` says
which chunk of rows is conditional (0) and which unconditional (1), in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import get_attention_function, optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from einops import rearrange
from torch import Tensor

from ..method.data import CONDITIONAL, UNCONDITIONAL
from ..method.layers import AttentionLayer
from ..method.value_embedding import value_input

ExtraOptions = dict[str, Any]
AttentionPatch = Callable[
    [Tensor, Tensor, Tensor, ExtraOptions], tuple[Tensor, Tensor, Tensor]
]
AttentionReplacement = Callable[[Tensor, Tensor, Tensor, ExtraOptions], Tensor]


def uncompiled(model_options: dict[str, Any]) -> dict[str, Any]:
    """A copy of model options that leaves out what TorchCompileModel has compiled.

    Compiled code takes no notice of patches that come, go or change after it was compiled.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    wrappers.get(WrappersMP.APPLY_MODEL, {}).pop(COMPILE_KEY, None)
    return options


def with_patch(
    model_options: dict[str, Any], name: str, patch: Any, first: bool = False
) -> dict[str, Any]:
    """A copy of model options with one more patch behind, or before, those already there."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    patches = options.setdefault("transformer_options", {}).setdefault("patches", {})
    there = patches.get(name, [])
    patches[name] = [patch, *there] if first else [*there, patch]
    return options


def with_replacements(
    model_options: dict[str, Any],
    layers: tuple[AttentionLayer, ...],
    make: Callable[[AttentionLayer], AttentionReplacement],
) -> dict[str, Any]:
    """A copy of model options whose cross-attention is replaced in some layers.

    A replacement that stood there before is chained: ours + (previous - plain).
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    for layer in layers:
        previous = _occupant(model_options, layer)
        replacement = make(layer) if previous is None else _chained(make(layer), previous)
        options = comfy.model_patcher.set_model_options_patch_replace(
            options, replacement, "attn2", layer.block, layer.number, layer.index
        )
    return options


def occupied(
    model_options: dict[str, Any], layers: tuple[AttentionLayer, ...]
) -> tuple[AttentionLayer, ...]:
    """The layers whose cross-attention another node has replaced, as an IP-Adapter does."""
    return tuple(layer for layer in layers if _occupant(model_options, layer) is not None)


def _occupant(model_options: dict[str, Any], layer: AttentionLayer) -> AttentionReplacement | None:
    options = model_options.get("transformer_options", {})
    placed: dict[Any, AttentionReplacement] = options.get("patches_replace", {}).get("attn2", {})
    return placed.get((layer.block, layer.number, layer.index),
                      placed.get((layer.block, layer.number)))


def _chained(ours: AttentionReplacement, previous: AttentionReplacement) -> AttentionReplacement:
    def replacement(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
        return ours(q, k, v, extra) + previous(q, k, v, extra) - fused_attention(q, k, v, extra)

    return replacement


def with_differentiable_attention(model_options: dict[str, Any]) -> dict[str, Any]:
    """A copy of model options that runs PyTorch's attention: other kernels have no gradient."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    attention = get_attention_function("pytorch")

    def override(chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
        return attention(*args, **kwargs)

    options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    return options


def fused_attention(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
    """The host's attention on projected, unsplit q, k, v."""
    return optimized_attention(
        q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"],
        transformer_options=extra,
    )


def attention_map(q: Tensor, k: Tensor, extra: ExtraOptions) -> Tensor:
    """softmax(q k^T / sqrt(d)) in fp32 [rows, heads, h * w, tokens]."""
    q, k = (rearrange(t.float(), "b t (h d) -> b h t d", h=extra["n_heads"]) for t in (q, k))
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


def on_grid(sums: Tensor, layer: AttentionLayer, extra: ExtraOptions) -> Tensor:
    """Sums [..., cells] as maps [..., h, w] on a layer's grid.

    Where another node shrinks the activations of some steps, they are interpolated.
    """
    size = extra["activations_shape"][-2:]
    grid = sums.unflatten(-1, size)
    if tuple(size) == (layer.height, layer.width):
        return grid
    fitted = F.interpolate(grid.flatten(0, -3)[None], (layer.height, layer.width), mode="bilinear")
    return fitted[0].unflatten(0, grid.shape[:-2])


def branch_rows(rows: int, branches: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """(branch, slice of rows) of every chunk of a call whose chunks are of these branches."""
    size = rows // len(branches)
    for place, branch in enumerate(branches):
        yield branch, slice(place * size, (place + 1) * size)


def sampling_step(extra: ExtraOptions) -> int:
    """The step being sampled: the one whose sigma is nearest to that of this call.

    The last sigma, where a second-order sampler looks too, belongs to the last step.
    """
    sigmas = extra["sample_sigmas"][:-1]
    return int((sigmas - extra["sigmas"][0].to(sigmas)).abs().argmin())


@dataclass
class LayerFinder:
    """Notes every cross-attention layer it is called in: the way to learn a UNet's layout.

    Of a layer that another node shrinks in some of the calls, the largest grid.
    """

    layers: dict[tuple[str, int, int], AttentionLayer] = field(default_factory=dict)

    def patch(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """An attn2_patch that changes nothing."""
        block, number = extra["block"]
        index = extra.get("block_index", 0)
        height, width = extra["activations_shape"][-2:]
        layer = AttentionLayer(block, number, index, height, width)
        key = (block, number, index)
        if self.layers.setdefault(key, layer).tokens < layer.tokens:
            self.layers[key] = layer
        return n, context, value


@dataclass
class MapRecorder:
    """Keeps the conditional rows' maps of the layers it replaces, and computes with them."""

    maps: list[Tensor] = field(default_factory=list)

    def replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """The attention of one layer, with its map [heads, h * w, tokens] kept on the way."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            probabilities = attention_map(q, k, extra)
            for branch, rows in branch_rows(len(q), extra["cond_or_uncond"]):
                if branch == CONDITIONAL:
                    columns = on_grid(probabilities[rows][0].mT, layer, extra)
                    self.maps.append(rearrange(columns, "heads tokens h w -> heads (h w) tokens"))
            heads = rearrange(v, "b t (h d) -> b h t d", h=extra["n_heads"])
            out = probabilities.to(v.dtype) @ heads
            return rearrange(out, "b h n d -> b n (h d)")

        return attend


def value_patch(scale: Tensor, shift: Tensor) -> AttentionPatch:
    """An attn2_patch under which the conditional values are c * s + b; differentiable in s and b.

    Tables [77, d], or one for each of the rows [n, 77, d].
    """

    def patch(
        n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            value_input(value[rows].float(), scale, shift).to(value.dtype)
            if branch == CONDITIONAL else value[rows]
            for branch, rows in branch_rows(len(value), extra["cond_or_uncond"])
        ]
        return n, context, torch.cat(parts)

    return patch


def prompt_patch(branch: int, prompt: Tensor) -> AttentionPatch:
    """An attn2_patch under which a branch has a learnt prompt [77, d]; differentiable in it."""

    def patch(
        n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        return n, *with_prompt(branch, prompt, context, value, extra["cond_or_uncond"])

    return patch


def with_prompt(
    branch: int, prompt: Tensor, context: Tensor, value: Tensor, branches: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Key and value inputs with a learnt prompt [77, d], repeated to their length, in its branch.

    It stands in for every unconditional row, or for the source alone: row 0 of the conditional
    ones.
    """
    keys, values = context.clone(), value.clone()
    tokens = prompt.repeat(context.shape[1] // len(prompt), 1).to(context)
    for chunk, rows in branch_rows(len(context), branches):
        if chunk == branch:
            stop = rows.stop if branch == UNCONDITIONAL else rows.start + 1
            keys[rows.start : stop] = values[rows.start : stop] = tokens
    return keys, values
