"""Attention patches: recording maps, the value input, and P2Plus, by the host's own hooks.

The host calls a patch with the rows of every prompt that it runs together; `cond_or_uncond` says
which chunk of rows is conditional (0) and which unconditional (1), in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import get_attention_function, optimized_attention
from torch import Tensor

from ..artifacts import AttentionLayer, ValueEmbedding
from ..control import Control, injects_self_attention, mixed_values
from ..mapping import value_input

ExtraOptions = dict[str, Any]
AttentionPatch = Callable[
    [Tensor, Tensor, Tensor, ExtraOptions], tuple[Tensor, Tensor, Tensor]
]
AttentionReplacement = Callable[[Tensor, Tensor, Tensor, ExtraOptions], Tensor]
CONDITIONAL, UNCONDITIONAL = 0, 1


def with_patch(model_options: dict[str, Any], name: str, patch: Any) -> dict[str, Any]:
    """A copy of model options with one more patch behind those already there."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    patches = options.setdefault("transformer_options", {}).setdefault("patches", {})
    patches[name] = [*patches.get(name, []), patch]
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
    placed = options.get("transformer_options", {}).get("patches_replace", {}).get("attn2", {})
    for layer in layers:
        previous = placed.get((layer.block, layer.number, layer.index),
                              placed.get((layer.block, layer.number)))
        replacement = make(layer) if previous is None else _chained(make(layer), previous)
        options = comfy.model_patcher.set_model_options_patch_replace(
            options, replacement, "attn2", layer.block, layer.number, layer.index
        )
    return options


def _chained(own: AttentionReplacement, previous: AttentionReplacement) -> AttentionReplacement:
    def replacement(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
        return own(q, k, v, extra) + previous(q, k, v, extra) - fused_attention(q, k, v, extra)

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
    q, k = (t.float().unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for t in (q, k))
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


def conditional_chunks(rows: int, extra: ExtraOptions) -> Iterator[tuple[int, slice]]:
    """(kind, slice of rows) of every chunk of this call."""
    kinds = extra["cond_or_uncond"]
    size = rows // len(kinds)
    for place, kind in enumerate(kinds):
        yield kind, slice(place * size, (place + 1) * size)


def sampling_step(extra: ExtraOptions) -> int:
    """The step being sampled: the nearest of the run's sigmas to the one of this call."""
    sigmas = extra["sample_sigmas"]
    return int((sigmas - extra["sigmas"][0].to(sigmas)).abs().argmin())


@dataclass
class LayerFinder:
    """Notes every cross-attention layer it is called in: the way to learn a UNet's layout."""

    found: dict[tuple[str, int, int], AttentionLayer] = field(default_factory=dict)

    def patch(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """An attn2_patch that changes nothing."""
        block, number = extra["block"]
        index = extra.get("block_index", 0)
        height, width = extra["activations_shape"][-2:]
        key = (block, number, index)
        self.found.setdefault(key, AttentionLayer(block, number, index, height, width))
        return n, context, value


@dataclass
class MapRecorder:
    """Keeps the conditional rows' maps of the layers it replaces, and computes with them."""

    maps: list[Tensor] = field(default_factory=list)

    def replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """The attention of one layer, with its map [heads, h * w, tokens] kept on the way."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            probabilities = attention_map(q, k, extra)
            for kind, rows in conditional_chunks(len(q), extra):
                if kind == CONDITIONAL:
                    self.maps.append(probabilities[rows][0])
            heads = v.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2)
            out = probabilities.to(v.dtype) @ heads
            return out.transpose(1, 2).flatten(2)

        return attend


def value_patch(scale: Tensor, shift: Tensor) -> AttentionPatch:
    """An attn2_patch under which conditional rows hear c * s + b; differentiable in s and b."""

    def patch(
        n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            value_input(value[rows].float(), scale, shift).to(value.dtype)
            if kind == CONDITIONAL else value[rows]
            for kind, rows in conditional_chunks(len(value), extra)
        ]
        return n, context, torch.cat(parts)

    return patch


class P2PlusRun:
    """Everything one sampling run needs, on its device; made when a run starts and then dropped.

    In every chunk row 0 is the source and the others are the targets.
    """

    def __init__(
        self,
        control: Control | None,
        embedding: ValueEmbedding | None,
        steps: int,
        device: torch.device,
    ) -> None:
        self.control = control
        self.steps = steps
        self.scale = None if embedding is None else embedding.scale.to(device)
        self.shift = None if embedding is None else embedding.shift.to(device)
        self.mappers = None if control is None else control.mappers().to(device)
        self.aligned = None if control is None else control.aligned().to(device)

    def options(
        self, model_options: dict[str, Any], layers: tuple[AttentionLayer, ...]
    ) -> dict[str, Any]:
        """Model options with the patches this run needs, and none that would do nothing."""
        steps = range(self.steps)
        control = self.control
        if control is not None and any(
            control.tau_s.holds_self(i, self.steps) or control.tau_u.holds_self(i, self.steps)
            for i in steps
        ):
            model_options = with_patch(model_options, "attn1_patch", self.self_attention)
        crossing = control is not None and any(
            control.tau_c.holds_cross(i, self.steps) for i in steps)
        if self.scale is not None or crossing:
            model_options = with_patch(model_options, "attn2_patch", self.cross_attention)
        if control is not None and crossing and control.needs_own_maps:
            model_options = with_replacements(model_options, layers, lambda _: self.two_attentions)
        return model_options

    def self_attention(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """attn1_patch: inside their windows target rows look with the source's query and key."""
        assert self.control is not None
        factor = extra["original_shape"][-1] / extra["activations_shape"][-1]
        if not injects_self_attention(n.shape[1], factor):
            return n, context, value
        step = sampling_step(extra)
        windows = {CONDITIONAL: self.control.tau_s, UNCONDITIONAL: self.control.tau_u}
        query, key = n.clone(), context.clone()
        for kind, rows in conditional_chunks(len(n), extra):
            if windows[kind].holds_self(step, self.steps):
                query[rows] = n[rows][:1]
                key[rows] = context[rows][:1]
        return query, key, value

    def cross_attention(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """attn2_patch: the value embedding, then Replace by value mixing where that is all."""
        step = sampling_step(extra)
        one_attention = self.control is not None and not self.control.needs_own_maps
        crossing = one_attention and self._crosses(step)
        query, key, heard = n, context, value.clone()
        if crossing:
            query, key = n.clone(), context.clone()
        for kind, rows in conditional_chunks(len(n), extra):
            if kind != CONDITIONAL:
                continue
            heard[rows] = self._with_embedding(value[rows], step)
            if crossing:
                assert self.mappers is not None and self.aligned is not None
                own = slice(rows.start + 1, rows.stop)
                query[own], key[own] = n[rows][:1], context[rows][:1]
                heard[own], _ = mixed_values(heard[own], self.mappers, self.aligned)
        return query, key, heard

    def two_attentions(self, q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
        """Replacement for Refine: the source's map on shared words plus the own map on new ones."""
        if not self._crosses(sampling_step(extra)):
            return fused_attention(q, k, v, extra)
        assert self.mappers is not None and self.aligned is not None
        first, second = v.clone(), []
        query, key, targets = q.clone(), k.clone(), []
        for kind, rows in conditional_chunks(len(q), extra):
            if kind != CONDITIONAL:
                continue
            own = slice(rows.start + 1, rows.stop)
            first[own], rest = mixed_values(v[own], self.mappers, self.aligned)
            query[own], key[own] = q[rows][:1], k[rows][:1]
            targets.append(own)
            second.append(rest)
        out = fused_attention(query, key, first, extra)
        for own, rest in zip(targets, second, strict=True):
            out[own] += fused_attention(q[own], k[own], rest, extra)
        return out

    def _crosses(self, step: int) -> bool:
        return self.control is not None and self.control.tau_c.holds_cross(step, self.steps)

    def _with_embedding(self, value: Tensor, step: int) -> Tensor:
        """Row 0 hears c * s + b at every step, target rows their own scaled inside tau_v."""
        if self.scale is None or self.shift is None:
            return value
        heard = value_input(value.float(), self.scale[step], self.shift[step]).to(value.dtype)
        if self.control is not None and not self.control.tau_v.holds_value(step, self.steps):
            heard[1:] = value[1:]
        return heard
