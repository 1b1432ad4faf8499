"""An edit as tables: what every sampling step does to every row, made before the first.

Row 0 is the source and the others are the targets. An edited map never has to exist: a target row
has the source's query and key, and values that were mixed for it (see `prompt_to_prompt`). Where it
keeps a share of its own map as well, that share is a second row of the same attention; both rows
get twice their share of the values, and their mean is the edit. So every attention stays one call
of the host's own kernel, and what is the same in all layers is made once a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .data import CONDITIONAL, UNCONDITIONAL, Embedding, PromptEmbedding, ValueEmbedding
from .prompt_to_prompt import Control, Target, repeated
from .value_embedding import value_input

HEAT_COLUMNS = 4
Branches = tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """Steps at which the same windows hold, for the rows of one chunk; tables on the device.

    `embedded` bool [rows, 1, 1]: rows whose values the embedding scales and shifts. `self_sources`,
    by branch: the row whose query and key each row has in self-attention. Rows `injected`
    int64 [n] have the source's cross-attention map, and values mixed by `mixers` [n, L, L]; of
    those `partial` int64 [k] keep a share of their own map, weighted by `own_weights` [k, L]. The
    maps of `heat_rows` are summed over words, `heat_columns` [w, L, 4]: of the source's and of the
    edited map, each for blend and subtract words.
    """

    embedded: Tensor
    self_sources: Mapping[int, tuple[int, ...]]
    injected: Tensor
    partial: Tensor
    mixers: Tensor
    own_weights: Tensor
    heat_rows: tuple[int, ...]
    heat_columns: Tensor

    @property
    def injects_self(self) -> bool:
        """Whether any row has another's query and key in self-attention."""
        return any(rows != tuple(range(len(rows))) for rows in self.self_sources.values())

    @property
    def injects_cross(self) -> bool:
        """Whether any row has the source's cross-attention map."""
        return len(self.injected) > 0

    def mixed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Value inputs [rows, L * m, d] of all rows, and the second rows' [k, L * m, d].

        A longer negative prompt makes the host repeat all tokens, m times.
        """
        if not self.injects_cross:
            return values, values[:0]
        tokens, length = values.shape[1], self.mixers.shape[-1]
        injected, partial = self.injected.to(values.device), self.partial.to(values.device)
        ours = self.mixers.to(values) @ values.index_select(0, injected)[:, :length]
        first = values.index_copy(0, injected, repeated(ours.mT, tokens).mT)
        if not len(partial):
            return first, values[:0]
        weights = repeated(self.own_weights, tokens).unsqueeze(-1).to(values)
        return first, weights * values.index_select(0, partial)


@dataclass(frozen=True)
class CallRows:
    """The rows of one call of the model, where an attention of `count` rows runs with more.

    `query` int64 [count + second + heat rows]: the row of the call whose query and key each has,
    None where all have their own. `partner` int64 [count]: the second row of each, or itself.
    """

    count: int
    query: Tensor | None
    partner: Tensor | None
    first_heat_row: int

    def queries(self, n: Tensor) -> Tensor:
        """Queries or keys [count, ...] of every row of the attention."""
        return n if self.query is None else n.index_select(0, self.query.to(n.device))

    def folded(self, out: Tensor) -> Tensor:
        """What [count, ...] rows get: the mean of a row and its partner; the heat rows go."""
        rows = out[: self.count]
        if self.partner is None:
            return rows
        return rows.lerp(out.index_select(0, self.partner.to(out.device)), 0.5)


@dataclass(frozen=True)
class EditPlan:
    """Everything a sampling run looks up, on its device; `phases` has one entry a step.

    Under a text embedding, which stands in for the source's prompt, targets keep their own words,
    under the maps it gives the source.
    """

    rows: int
    phases: tuple[Phase, ...]
    value_embedding: ValueEmbedding | None = None
    prompt_embedding: PromptEmbedding | None = None
    _call_rows: dict[tuple[int, Branches, bool], CallRows] = field(default_factory=dict)
    _self_rows: dict[tuple[int, Branches], Tensor | None] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.phases)

    @property
    def is_active(self) -> bool:
        """Whether any step does anything to any row."""
        embeds = self.value_embedding is not None or self.prompt_embedding is not None
        return embeds or any(
            phase.injects_self or phase.injects_cross or phase.heat_rows for phase in self.phases)

    @property
    def heat_targets(self) -> int:
        """How many targets are kept to where words look."""
        return sum(row == 0 for row in self.phases[0].heat_rows)

    def embedded(self, step: int, values: Tensor) -> Tensor:
        """Conditional values [rows, T, d] in fp32, c * s + b in the rows of the value embedding.

        The source is among them at every step; of targets their own prompt is scaled and shifted.
        """
        learnt = self.value_embedding
        if learnt is None:
            return values.float()
        scale, shift = (table[step].to(values.device) for table in (learnt.scale, learnt.shift))
        scaled = value_input(values.float(), scale, shift)
        return torch.where(self.phases[step].embedded.to(values.device), scaled, values)

    def self_rows(self, step: int, branches: Branches) -> Tensor | None:
        """For each row of a call the one whose query and key it has; None where its own."""
        phase = self.phases[step]
        key = id(phase), branches
        if key not in self._self_rows:
            sources = [place * self.rows + row for place, branch in enumerate(branches)
                     for row in phase.self_sources[branch]]
            same = sources == list(range(len(sources)))
            self._self_rows[key] = None if same else _index(sources, phase)
        return self._self_rows[key]

    def call_rows(self, step: int, branches: Branches, heat: bool) -> CallRows:
        """The rows of cross-attention in a call, in layers whose `heat` is read or not."""
        phase = self.phases[step]
        key = id(phase), branches, heat and bool(phase.heat_rows)
        if key not in self._call_rows:
            self._call_rows[key] = _call_rows(phase, self.rows, branches, key[-1])
        return self._call_rows[key]


def _call_rows(phase: Phase, rows: int, branches: Branches, heat: bool) -> CallRows:
    count = rows * len(branches)
    query, partner = list(range(count)), list(range(count))
    second, seen = [], []
    for place, branch in enumerate(branches):
        if branch == CONDITIONAL:
            start = place * rows
            for row in phase.injected.tolist():
                query[start + row] = start
            second += [start + row for row in phase.partial.tolist()]
            seen += [start + row for row in phase.heat_rows] if heat else []
    for place, row in enumerate(second, start=count):
        partner[row] = place
    rows_of_query = [*query, *second, *seen]
    return CallRows(
        count, None if rows_of_query == list(range(count)) else _index(rows_of_query, phase),
        _index(partner, phase) if second else None, count + len(second))


def _index(rows: list[int], phase: Phase) -> Tensor:
    return torch.tensor(rows, device=phase.embedded.device)


def make_plan(
    control: Control | None, embedding: Embedding | None, steps: int, device: torch.device
) -> EditPlan:
    """The tables of a run over N steps, with its usual calls laid out."""
    phases = _phases(control, steps, device)
    rows = 1 if control is None else 1 + len(control.targets)
    plan = EditPlan(rows, phases)
    if isinstance(embedding, ValueEmbedding):
        scale, shift = embedding.scale.to(device), embedding.shift.to(device)
        plan = replace(plan, value_embedding=replace(embedding, scale=scale, shift=shift))
    elif isinstance(embedding, PromptEmbedding):
        contexts = embedding.contexts.to(device)
        plan = replace(plan, prompt_embedding=replace(embedding, contexts=contexts))
    for branches in ((UNCONDITIONAL, CONDITIONAL), (CONDITIONAL,), (UNCONDITIONAL,)):
        for step in range(steps):
            plan.self_rows(step, branches)
            for heat in (False, True):
                plan.call_rows(step, branches, heat)
    return plan


def _phases(control: Control | None, steps: int, device: torch.device) -> tuple[Phase, ...]:
    if control is None:
        none = torch.empty(0, dtype=torch.int64, device=device)
        embedded = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
        alone = {CONDITIONAL: (0,), UNCONDITIONAL: (0,)}
        return (Phase(embedded, alone, none, none, none, none, (), none),) * steps
    value, layout, uncond = (control.held(tau, steps) for tau in ("tau_v", "tau_s", "tau_u"))
    first, second = control.weights(steps)
    mappers = control.mappers()
    known: dict[bytes, Phase] = {}
    phases = []
    for i in range(steps):
        parts = (value[i], layout[i], uncond[i], first[i], second[i])
        key = b"".join(part.numpy().tobytes() for part in parts)
        if key not in known:
            known[key] = _phase(control, mappers, *parts, device)
        phases.append(known[key])
    return tuple(phases)


def _phase(
    control: Control, mappers: Tensor, value: Tensor, layout: Tensor, uncond: Tensor,
    first: Tensor, second: Tensor, device: torch.device,
) -> Phase:
    targets = range(len(control.targets))
    injected = [t for t in targets if first[t].any() or not (second[t] == 1).all()]
    partial = [t for t in injected if second[t].any()]
    twice = torch.tensor([2.0 if t in partial else 1.0 for t in injected]).view(-1, 1, 1)
    mixers = twice * mappers[injected] * first[injected].unsqueeze(1)
    heat_rows, heat_columns = _heat_columns(control, mappers, first, second)
    embedded = torch.cat([torch.ones(1, dtype=torch.bool), value]).view(-1, 1, 1)
    return Phase(
        embedded.to(device), {CONDITIONAL: _sources(layout), UNCONDITIONAL: _sources(uncond)},
        torch.tensor(injected, dtype=torch.int64, device=device) + 1,
        torch.tensor(partial, dtype=torch.int64, device=device) + 1,
        mixers.to(device), 2 * second[partial].to(device), heat_rows, heat_columns.to(device))


def _sources(held: Tensor) -> tuple[int, ...]:
    return (0, *(0 if inside else row for row, inside in enumerate(held.tolist(), start=1)))


def _heat_columns(
    control: Control, mappers: Tensor, first: Tensor, second: Tensor
) -> tuple[tuple[int, ...], Tensor]:
    """Rows to watch, and their columns [n, L, 4]: the source's share, then the targets' own.

    The edited map of a word weighs A_source @ (P diag(first) w) + A_target @ (diag(second) w).
    """
    length, blended = control.tokens, control.word_targets
    source, target = (
        torch.stack([_words(control.targets[t], side, length) for t in blended])
        if blended else torch.zeros(0, length, 2) for side in ("source", "target"))
    ours = mappers[blended] @ (first[blended].unsqueeze(-1) * target)
    theirs = second[blended].unsqueeze(-1) * target
    through = torch.cat([source, ours], -1)
    if not theirs.any():
        return (0,) * len(blended), through
    alone = torch.cat([torch.zeros_like(theirs), theirs], -1)
    rows = (*(0 for _ in blended), *(t + 1 for t in blended))
    return rows, torch.cat([through, alone])


def _words(target: Target, side: str, length: int) -> Tensor:
    """[L, 2]: the blend words and the subtract words of one target, zeros where it has none."""
    return torch.stack([
        torch.zeros(length) if masks is None else repeated(getattr(masks, side), length)
        for masks in (target.blend, target.subtract)], dim=-1)
