"""P2Plus while it runs: one object a sampling run, whose patches edit rows through values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from ..artifacts import AttentionLayer, ValueEmbedding
from ..blend import blend_mask, blended
from ..control import Control, Window, injects_self_attention, mixed_values
from ..mapping import value_input
from .attention import (
    CONDITIONAL,
    UNCONDITIONAL,
    AttentionReplacement,
    ExtraOptions,
    conditional_chunks,
    fused_attention,
    sampling_step,
    with_patch,
    with_replacements,
)
from .heat import WordHeat

RUN = "stylediffusion_run"


class P2PlusRun:
    """Everything one sampling run needs, on its device; made when a run starts and then dropped.

    In every chunk row 0 is the source and the others are the targets. `layers` are all
    cross-attention layers, `supervising` those whose maps local blend reads; `source` holds the
    latents (k-diffusion, [N, C, h, w]) that row 0 is set to after each step, where it is.
    """

    def __init__(
        self,
        control: Control | None,
        embedding: ValueEmbedding | None,
        steps: int,
        device: torch.device,
        layers: tuple[AttentionLayer, ...] = (),
        supervising: tuple[AttentionLayer, ...] = (),
        source: Tensor | None = None,
    ) -> None:
        self.control, self.steps, self.layers = control, steps, layers
        self.source = None if source is None else source.to(device)
        self.scale = None if embedding is None else embedding.scale.to(device)
        self.shift = None if embedding is None else embedding.shift.to(device)
        self.crosses, self.keeps_own = [False] * steps, [False] * steps
        self.heat: WordHeat | None = None
        if control is None:
            return
        first, second = control.weights(steps)
        self.crosses = ((first != 0) | (second != 1)).flatten(1).any(1).tolist()
        self.keeps_own = (second != 0).flatten(1).any(1).tolist()
        self.first, self.second = first.to(device), second.to(device)
        self.mappers = control.mappers().to(device)
        if control.blends:
            self.heat = WordHeat(control, self.mappers, self.first, self.second, supervising)

    def options(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """Model options with the patches this run needs, and none that would do nothing."""
        control = self.control
        if control is not None and self._ever(control.tau_s, control.tau_u):
            model_options = with_patch(model_options, "attn1_patch", self.self_attention)
        if self.scale is not None or any(self.crosses):
            model_options = with_patch(model_options, "attn2_patch", self.cross_attention)
        apart = any(c and k for c, k in zip(self.crosses, self.keeps_own, strict=True))
        replaced = self.layers if apart else self.heat.layers if self.heat is not None else ()
        if replaced:
            model_options = with_replacements(model_options, replaced, self._replacement)
        if self.heat is not None or self.source is not None:
            model_options = {**model_options, "transformer_options": {
                **model_options.get("transformer_options", {}), RUN: self}}
        return model_options

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        """Latents [1 + targets, C, h, w] with the source set right and the edits blended in."""
        if self.source is not None:
            latents = torch.cat([self.source[step : step + 1].to(latents), latents[1:]])
        return self.blended(step, latents)

    def blended(self, step: int, latents: Tensor) -> Tensor:
        """Latents [1 + targets, C, h, w] after a step, with the edits kept to their places."""
        if self.heat is None or self.control is None:
            return latents
        if not self.control.blend.holds(step, self.steps):
            return latents
        height, width = latents.shape[-2:]
        masks = [
            torch.ones_like(latents[:1, :1], dtype=torch.bool) if heat is None
            else blend_mask(heat, subtract, height, width, self.control.blend)
            for heat, subtract in self.heat.by_target()
        ]
        return blended(latents, torch.cat(masks))

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
        """attn2_patch: the value embedding, then one attention on mixed values where that is all.

        Layers that local blend reads are left to their replacement, which needs the true queries.
        """
        step = sampling_step(extra)
        alone = self.crosses[step] and not self.keeps_own[step] and not self._is_read(extra)
        query, key, heard = n, context, value.clone()
        if alone:
            query, key = n.clone(), context.clone()
        for kind, rows in conditional_chunks(len(n), extra):
            if kind != CONDITIONAL:
                continue
            heard[rows] = self._with_embedding(value[rows], step)
            if alone:
                own = slice(rows.start + 1, rows.stop)
                query[own], key[own] = n[rows][:1], context[rows][:1]
                heard[own], _ = self._mixed(heard[own], step)
        return query, key, heard

    def _replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """One layer's attention where target rows hear two maps, or where words are watched."""
        watched = self.heat is not None and layer in self.heat.layers

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            step = sampling_step(extra)
            if watched and self.heat is not None:
                self.heat.watch(layer, q, k, extra, step)
            if not self.crosses[step] or not (watched or self.keeps_own[step]):
                return fused_attention(q, k, v, extra)
            return self._two_attentions(q, k, v, extra, step)

        return attend

    def _two_attentions(
        self, q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions, step: int
    ) -> Tensor:
        """The source's map on its share of the values plus, where there is any, the own map."""
        query, key, ours = q.clone(), k.clone(), v.clone()
        rest: list[tuple[slice, Tensor]] = []
        for kind, rows in conditional_chunks(len(q), extra):
            if kind != CONDITIONAL:
                continue
            own = slice(rows.start + 1, rows.stop)
            query[own], key[own] = q[rows][:1], k[rows][:1]
            ours[own], kept = self._mixed(v[own], step)
            rest.append((own, kept))
        out = fused_attention(query, key, ours, extra)
        if self.keeps_own[step]:
            for own, kept in rest:
                out[own] += fused_attention(q[own], k[own], kept, extra)
        return out

    def _mixed(self, values: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return mixed_values(values, self.mappers, self.first[step], self.second[step])

    def _with_embedding(self, value: Tensor, step: int) -> Tensor:
        """Row 0 hears c * s + b at every step, target rows their own scaled inside tau_v."""
        if self.scale is None or self.shift is None:
            return value
        heard = value_input(value.float(), self.scale[step], self.shift[step]).to(value.dtype)
        if self.control is not None and not self.control.tau_v.holds_value(step, self.steps):
            heard[1:] = value[1:]
        return heard

    def _is_read(self, extra: ExtraOptions) -> bool:
        """Whether local blend reads the layer of this call."""
        key = (*extra["block"], extra.get("block_index", 0))
        return self.heat is not None and any(
            key == (layer.block, layer.number, layer.index) for layer in self.heat.layers)

    def _ever(self, *windows: Window) -> bool:
        return any(w.holds_self(i, self.steps) for w in windows for i in range(self.steps))


def sample_by_steps(
    euler: Callable[..., Tensor], model: Any, x: Tensor, sigmas: Tensor,
    extra_args: dict[str, Any], callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """The host's own Euler, a step at a time, with what the run does after each."""
    run: P2PlusRun = extra_args["model_options"]["transformer_options"][RUN]
    for i in trange(len(sigmas) - 1, disable=disable):

        def with_step(state: dict[str, Any], step: int = i) -> None:
            if callback is not None:
                callback({**state, "i": step})

        x = euler(model, x, sigmas[i : i + 2], extra_args=extra_args, callback=with_step,
                  disable=True)
        x = run.after_step(i, x)
    return x
