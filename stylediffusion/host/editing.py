"""P2Plus while it runs: one object a sampling run, whose patches edit rows through values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from ..artifacts import VALUE_EMBEDDING, AttentionLayer, ValueEmbedding
from ..blend import blend_mask, blended
from ..control import Control, injects_self_attention, mixed_values
from ..mapping import value_input
from .attention import (
    CONDITIONAL,
    UNCONDITIONAL,
    AttentionPatch,
    AttentionReplacement,
    ExtraOptions,
    conditional_chunks,
    fused_attention,
    occupied,
    prompt_patch,
    sampling_step,
    with_patch,
    with_replacements,
)
from .heat import WordHeat

RUN = "stylediffusion_run"


class RowWindow:
    """What holds at some steps for some rows of a chunk: from bool [N, rows]."""

    def __init__(self, held: Tensor, device: torch.device) -> None:
        self.anywhere: list[bool] = held.any(1).tolist()
        self.ever = any(self.anywhere)
        self.rows = held[..., None, None].to(device)

    def chosen(self, step: int, inside: Tensor, outside: Tensor) -> Tensor:
        """Rows [rows, T, d] of `inside` where it holds at a step, else of `outside`."""
        return torch.where(self.rows[step].to(inside.device), inside, outside)


class P2PlusRun:
    """Everything one sampling run needs, on its device; made when a run starts and then dropped.

    In every chunk row 0 is the source and the others are the targets. `layers` are all
    cross-attention layers, `supervising` those whose maps local blend reads; `source` holds the
    latents (k-diffusion, [N, C, h, w]) that row 0 is set to after each step, where it is. A null
    text is heard by the unconditional half of every row. A text embedding takes the place of the
    source's prompt: targets keep their own words, and look through the maps it gives the source.
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
        self.scale, self.shift, self.prompt = _heard(embedding, device)
        self.crosses, self.keeps_own, self.hears_both = ([False] * steps for _ in range(3))
        self.heat: WordHeat | None = None
        self.masks: Tensor | None = None
        self.left: tuple[AttentionLayer, ...] = ()
        if control is None:
            return
        self._hold(control, device)
        first, second = control.weights(steps)
        self._weigh(first, second, device)
        self.mappers = control.mappers().to(device)
        if control.reads_words:
            self.heat = WordHeat(control, self.mappers, self.first, self.second, supervising)

    def _hold(self, control: Control, device: torch.device) -> None:
        """The windows of all rows; the source hears the value embedding at every step."""
        source = torch.zeros(self.steps, 1, dtype=torch.bool)
        value, layout, unconditional = (
            control.held(tau, self.steps) for tau in ("tau_v", "tau_s", "tau_u"))
        self.hears = RowWindow(torch.cat([~source, value], 1), device)
        self.layout = {
            CONDITIONAL: RowWindow(torch.cat([source, layout], 1), device),
            UNCONDITIONAL: RowWindow(torch.cat([source, unconditional], 1), device),
        }

    def _weigh(self, first: Tensor, second: Tensor, device: torch.device) -> None:
        """Which target rows hear the source's map alone, and at which steps any hears both."""
        alone = (second == 0).all(-1)
        plain = (first == 0).all(-1) & (second == 1).all(-1)
        self.crosses = (~plain).any(1).tolist()
        self.keeps_own = (second != 0).flatten(1).any(1).tolist()
        self.hears_both = (~plain & ~alone).any(1).tolist()
        self.through_source = RowWindow(alone, device)
        self.first, self.second = first.to(device), second.to(device)

    def options(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """Model options with the patches this run needs, and none that would do nothing."""
        if self.control is not None and any(row.ever for row in self.layout.values()):
            model_options = with_patch(model_options, "attn1_patch", self.self_attention)
        if self.prompt is not None:
            model_options = with_patch(model_options, "attn2_patch", self.prompt)
        if self.scale is not None or any(self.crosses):
            model_options = with_patch(model_options, "attn2_patch", self.cross_attention)
        read = () if self.heat is None else self.heat.layers
        others = occupied(model_options, self.layers) if any(self.crosses) else ()
        self.left = tuple(dict.fromkeys((*read, *others)))
        replaced = self.layers if any(self.hears_both) else self.left
        if replaced:
            model_options = with_replacements(model_options, replaced, self._replacement)
        if self.source is not None or (self.control is not None and self.control.blends):
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
        control = self.control
        if control is None or not control.blends or not control.blend.holds(step, self.steps):
            return latents
        self.masks = torch.cat(self._places(control, latents))
        return blended(latents, self.masks)

    def _places(self, control: Control, latents: Tensor) -> list[Tensor]:
        """A mask [1, 1, h, w] for each target: painted, by words, or everywhere."""
        height, width = latents.shape[-2:]
        everywhere = torch.ones_like(latents[:1, :1], dtype=torch.bool)
        heats = [(None, None)] * len(control.targets) if self.heat is None else \
            self.heat.by_target()
        return [
            target.mask[None, None].to(latents) if target.mask is not None
            else everywhere if heat is None
            else blend_mask(heat, subtract, height, width, control.blend)
            for target, (heat, subtract) in zip(control.targets, heats, strict=True)
        ]

    def self_attention(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """attn1_patch: inside their windows target rows look with the source's query and key."""
        width, full_width = extra["activations_shape"][-1], extra["original_shape"][-1]
        if not injects_self_attention(n.shape[1], width, full_width):
            return n, context, value
        step = sampling_step(extra)
        query, key = n.clone(), context.clone()
        for kind, rows in conditional_chunks(len(n), extra):
            held = self.layout[kind]
            if held.anywhere[step]:
                query[rows] = held.chosen(step, n[rows][:1], n[rows])
                key[rows] = held.chosen(step, context[rows][:1], context[rows])
        return query, key, value

    def cross_attention(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """attn2_patch: the value embedding, then one attention on mixed values where that is all.

        Layers that local blend reads, or that another node replaces, are left to our replacement:
        both need the true queries.
        """
        step = sampling_step(extra)
        alone = self.crosses[step] and not self.hears_both[step] and not self._is_left(extra)
        query, key, heard = n, context, value.clone()
        if alone:
            query, key = n.clone(), context.clone()
        for kind, rows in conditional_chunks(len(n), extra):
            if kind != CONDITIONAL:
                continue
            heard[rows] = self._with_embedding(value[rows], step)
            if alone:
                own, chosen = slice(rows.start + 1, rows.stop), self.through_source.chosen
                query[own] = chosen(step, n[rows][:1], n[own])
                key[own] = chosen(step, context[rows][:1], context[own])
                heard[own] = chosen(step, self._mixed(heard[own], step)[0], heard[own])
        return query, key, heard

    def _replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """One layer's attention where target rows hear two maps, or where it is left to us."""
        watched = self.heat is not None and layer in self.heat.layers
        left = layer in self.left

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            step = sampling_step(extra)
            if watched and self.heat is not None:
                self.heat.watch(layer, q, k, extra, step)
            if not self.crosses[step] or not (left or self.hears_both[step]):
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
        scale, shift = (table[step].to(value.device) for table in (self.scale, self.shift))
        heard = value_input(value.float(), scale, shift).to(value.dtype)
        return heard if self.control is None else self.hears.chosen(step, heard, value)

    def _is_left(self, extra: ExtraOptions) -> bool:
        """Whether the layer of this call is left to its replacement."""
        key = (*extra["block"], extra.get("block_index", 0))
        return any(key == (layer.block, layer.number, layer.index) for layer in self.left)


def _heard(
    embedding: ValueEmbedding | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None, AttentionPatch | None]:
    """Scale and shift of the value input, or what replaces a prompt; None for what there is not."""
    if embedding is None:
        return None, None, None
    scale, shift = embedding.scale.to(device), embedding.shift.to(device)
    if embedding.kind == VALUE_EMBEDDING:
        return scale, shift, None
    return None, None, prompt_patch(embedding.kind, scale, shift)


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
