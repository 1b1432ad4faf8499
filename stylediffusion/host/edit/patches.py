"""P2Plus while it runs: patches of the host that look up what an edit plan says of this step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...method.data import CONDITIONAL, UNCONDITIONAL
from ...method.edit_plan import HEAT_COLUMNS, Branches, CallRows, EditPlan, Phase
from ...method.layers import AttentionLayer
from ...method.prompt_to_prompt import injects_self_attention
from ..attention import (
    AttentionReplacement,
    ExtraOptions,
    branch_rows,
    fused_attention,
    occupied,
    on_grid,
    uncompiled,
    with_patch,
    with_prompt,
    with_replacements,
)

LayerKey = tuple[str, int, int]


class EditRun:
    """One sampling run of a plan: the step it is at, and what its steps have in common.

    `layers` are all cross-attention layers, `heat_layers` those whose maps local blend reads.
    `columns` collects, layer by layer, the blend words' columns [targets, 4, h, w] summed over
    heads. A layer that another node replaces is deferred to our replacement behind it: both need
    the true queries. `positive` are the host's ids of the positive prompt.
    """

    def __init__(
        self, plan: EditPlan, layers: tuple[AttentionLayer, ...],
        heat_layers: tuple[AttentionLayer, ...],
    ) -> None:
        self.plan, self.layers = plan, layers
        self.step = 0
        self.columns: list[Tensor] = []
        self.positive: frozenset[Any] = frozenset()
        self._heat_keys = {_key(layer) for layer in heat_layers}
        self._heat_layers = heat_layers
        self._deferred: set[LayerKey] = set()
        self._base: dict[str, Any] | None = None
        self._options: dict[int, dict[str, Any]] = {}
        self._inputs: dict[tuple[bool, bool], tuple[Any, Tensor, Tensor, Tensor, Tensor]] = {}

    @property
    def phase(self) -> Phase:
        """What holds at this step."""
        return self.plan.phases[self.step]

    def options(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """Model options with the patches this step needs, and none that would do nothing."""
        if model_options is not self._base:
            self._base, self._options = model_options, {}
            self._deferred = {_key(layer) for layer in occupied(model_options, self.layers)}
        key = id(self.phase)
        if key not in self._options:
            patched = self._patched(model_options)
            self._options[key] = uncompiled(patched) if self.plan.is_active else patched
        return self._options[key]

    def _patched(self, options: dict[str, Any]) -> dict[str, Any]:
        plan, phase = self.plan, self.phase
        embeds = plan.value_embedding is not None or plan.prompt_embedding is not None
        if phase.injects_self:
            # First, so that patches which tile or merge rows see those that look together.
            options = with_patch(options, "attn1_patch", self.self_attention, first=True)
        if embeds or phase.injects_cross or phase.heat_rows:
            options = with_patch(options, "attn2_patch", self.cross_attention)
        if len(phase.partial) or phase.heat_rows:
            options = with_patch(options, "attn2_output_patch", self.folded, first=True)
        deferred = [layer for layer in self.layers if _key(layer) in self._deferred]
        replaced = (*(self._heat_layers if phase.heat_rows else ()),
                    *(deferred if phase.injects_cross else ()))
        if replaced:
            layers = tuple(dict.fromkeys(replaced))
            options = with_replacements(options, layers, self._replacement)
        return options

    def self_attention(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """attn1_patch: inside their windows target rows look with the source's query and key."""
        width, full_width = extra["activations_shape"][-1], extra["original_shape"][-1]
        rows = self.plan.self_rows(self.step, self._branches(extra))
        if rows is None or not injects_self_attention(n.shape[1], width, full_width):
            return n, context, value
        query = n.index_select(0, rows.to(n.device))
        key = query if context is n else context.index_select(0, rows.to(n.device))
        return query, key, value

    def cross_attention(
        self, n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """attn2_patch: queries, keys and mixed values of every row of the attention."""
        deferred, heat = self._is_deferred(extra), self._reads_heat(extra)
        keys, values = self._inputs_of(context, value, extra, deferred, heat)
        if deferred:
            return n, keys, values
        return self._rows(extra, heat).queries(n), keys, values

    def folded(self, out: Tensor, extra: ExtraOptions) -> Tensor:
        """attn2_output_patch: one row again for each row of the call."""
        if self._is_deferred(extra):
            return out
        return self._rows(extra, self._reads_heat(extra)).folded(out)

    def _replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """A layer whose maps are read, or that another node replaces, or both."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            deferred, heat = self._is_deferred(extra), self._reads_heat(extra)
            rows = self._rows(extra, heat)
            heat = heat and CONDITIONAL in self._branches(extra)
            if deferred:
                q, k, v = rows.queries(q), rows.queries(k), self._mixed(v, extra, heat)
            if heat:
                _write_columns(v[rows.first_heat_row :], self.phase.heat_columns, extra["n_heads"])
            out = fused_attention(q, k, v, extra)
            if heat:
                self._note(out[rows.first_heat_row :], layer, extra)
            return rows.folded(out) if deferred else out

        return attend

    def _inputs_of(
        self, context: Tensor, value: Tensor, extra: ExtraOptions, deferred: bool, heat: bool
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; layers of a call that are given the same share them."""
        branches = self._branches(extra)
        moment = self.step, branches
        last = self._inputs.get((deferred, heat))
        if last is not None and last[0] == moment and last[1] is context and last[2] is value:
            return last[3], last[4]
        keys, values = context, value
        learnt = self.plan.prompt_embedding
        if learnt is not None:
            keys, values = with_prompt(
                learnt.branch, learnt.contexts[self.step], context, value, branches)
        embeds = self.plan.value_embedding is not None
        if embeds or heat or (self.phase.injects_cross and not deferred):
            values = self._mixed(values, extra, heat, embed=True, inject=not deferred)
        if not deferred:
            keys = self._rows(extra, heat).queries(keys)
        self._inputs[deferred, heat] = moment, context, value, keys, values
        return keys, values

    def _mixed(
        self, values: Tensor, extra: ExtraOptions, heat: bool, embed: bool = False,
        inject: bool = True,
    ) -> Tensor:
        """Values for every row of the attention: embedded, mixed, and the second ones."""
        parts, second, heat_rows = [], [], []
        for branch, rows in branch_rows(len(values), self._branches(extra)):
            chunk = values[rows]
            if branch == CONDITIONAL:
                chunk = self.plan.embedded(self.step, chunk) if embed else chunk.float()
            if branch == CONDITIONAL and inject:
                chunk, partial = self.phase.mixed(chunk)
                second.append(partial)
                heat_rows += [chunk[:1]] * (len(self.phase.heat_rows) if heat else 0)
            parts.append(chunk)
        return torch.cat([*parts, *second, *heat_rows]).to(values.dtype)

    def _rows(self, extra: ExtraOptions, heat: bool) -> CallRows:
        return self.plan.call_rows(self.step, self._branches(extra), heat)

    def _branches(self, extra: ExtraOptions) -> Branches:
        """The branch of each chunk: in calls that other nodes make the first may be a negative."""
        return tuple(CONDITIONAL if prompt in self.positive else UNCONDITIONAL
                     for prompt in extra["uuids"])

    def _is_deferred(self, extra: ExtraOptions) -> bool:
        """Whether the layer of this call is deferred to the replacement behind another node's."""
        return self._here(extra) in self._deferred

    def _reads_heat(self, extra: ExtraOptions) -> bool:
        return bool(self.phase.heat_rows) and self._here(extra) in self._heat_keys

    @staticmethod
    def _here(extra: ExtraOptions) -> LayerKey:
        return (*extra["block"], extra.get("block_index", 0))

    def _note(self, out: Tensor, layer: AttentionLayer, extra: ExtraOptions) -> None:
        """Add the heat rows' columns, summed over heads, for every blended target."""
        targets = self.plan.heat_targets
        columns = out.view(-1, targets, out.shape[1], extra["n_heads"], extra["dim_head"])
        columns = columns[..., :HEAT_COLUMNS].sum((0, 3), dtype=torch.float32)
        self.columns.append(on_grid(columns.mT, layer, extra))


def _key(layer: AttentionLayer) -> LayerKey:
    return layer.block, layer.number, layer.index


def _write_columns(values: Tensor, columns: Tensor, heads: int) -> None:
    """Put words' columns [n, L, 4] into the first channels of each head of values [n, L * m, d].

    Attention on them sums the map's columns. Keys that the host repeats share what theirs has.
    """
    rows, length = columns.shape[:2]
    repeats, width = values.shape[1] // length, values.shape[2] // heads
    places = values.view(-1, rows, repeats, length, heads, width)[..., :HEAT_COLUMNS]
    places.copy_(columns.to(values.device)[:, None, :, None])
