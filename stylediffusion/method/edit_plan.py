"""An edit as tables: what every sampling step does to every row, made before the first.

Row 0 is the source and the others are the targets. An edited map never has to exist: a target row
looks with the source's query and key at values that were mixed for it (see `control`). Where it
keeps a share of its own map as well, that share is a second row of the same attention; both rows
hear twice their share of the values, and their mean is the edit. So every attention stays one call
of the host's own kernel, and what is the same in all layers is made once a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .data import VALUE_EMBEDDING, ValueEmbedding
from .prompt_to_prompt import Control, Target, repeated
from .value_embedding import value_input

CONDITIONAL, UNCONDITIONAL = 0, 1
HEAT_COLUMNS = 4
Kinds = tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """Steps at which the same windows hold, for the rows of one chunk; tables on the device.

    `hears` bool [rows, 1, 1]: which rows hear the value embedding. `looks`, by kind of chunk: the
    row whose query and key each row has in self-attention. Rows `crossing` int64 [n] look through
    the source's cross-attention map, with values mixed by `through` [n, L, L]; of those `keeping`
    int64 [k] keep a share of their own, weighted by `kept` [k, L]. Rows `watched` have their maps'
    columns summed over words, `columns` [w, L, 4]: of the source's and of the edited map, each for
    blend and subtract words.
    """

    hears: Tensor
    looks: Mapping[int, tuple[int, ...]]
    crossing: Tensor
    keeping: Tensor
    through: Tensor
    kept: Tensor
    watched: tuple[int, ...]
    columns: Tensor

    @property
    def injects(self) -> bool:
        """Whether any row looks with another's query in self-attention."""
        return any(rows != tuple(range(len(rows))) for rows in self.looks.values())

    @property
    def crosses(self) -> bool:
        """Whether any row looks through the source's cross-attention map."""
        return len(self.crossing) > 0

    def mixed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values [rows, L * m, d] as all rows hear them, and the second rows' [k, L * m, d].

        A longer negative prompt makes the host repeat all tokens, m times.
        """
        if not self.crosses:
            return values, values[:0]
        tokens, length = values.shape[1], self.through.shape[-1]
        crossing, keeping = self.crossing.to(values.device), self.keeping.to(values.device)
        ours = self.through.to(values) @ values.index_select(0, crossing)[:, :length]
        heard = values.index_copy(0, crossing, repeated(ours.mT, tokens).mT)
        if not len(keeping):
            return heard, values[:0]
        kept = repeated(self.kept, tokens).unsqueeze(-1).to(values)
        return heard, kept * values.index_select(0, keeping)


@dataclass(frozen=True)
class CallRows:
    """The rows of one call of the model, where an attention of `count` rows runs with more.

    `query` int64 [count + second + watched rows]: the row of the call that each one looks from,
    None where all look from their own. `partner` int64 [count]: the second row of each, or itself.
    """

    count: int
    query: Tensor | None
    partner: Tensor | None
    first_watched: int

    def looking(self, n: Tensor) -> Tensor:
        """Queries or keys [count, ...] for every row of the attention."""
        return n if self.query is None else n.index_select(0, self.query.to(n.device))

    def folded(self, out: Tensor) -> Tensor:
        """What [count, ...] rows get: the mean of a row and its partner; the watched rows go."""
        own = out[: self.count]
        if self.partner is None:
            return own
        return own.lerp(out.index_select(0, self.partner.to(out.device)), 0.5)


@dataclass(frozen=True)
class EditPlan:
    """Everything a sampling run looks up, on its device; `phases` has one entry a step.

    A null text is heard by the unconditional half of every row. A text embedding takes the place of
    the source's prompt: targets keep their own words, and look through the maps it gives the
    source.
    """

    rows: int
    phases: tuple[Phase, ...]
    kind: str = VALUE_EMBEDDING
    scale: Tensor | None = None
    shift: Tensor | None = None
    _call_rows: dict[tuple[int, Kinds, bool], CallRows] = field(default_factory=dict)
    _self_rows: dict[tuple[int, Kinds], Tensor | None] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.phases)

    @property
    def acts(self) -> bool:
        """Whether any step does anything to any row."""
        return self.scale is not None or any(
            phase.injects or phase.crosses or phase.watched for phase in self.phases)

    @property
    def blended(self) -> int:
        """How many targets are kept to where words look."""
        return sum(row == 0 for row in self.phases[0].watched)

    @property
    def hears_values(self) -> bool:
        """Whether anything is heard in the place of the value input."""
        return self.scale is not None and self.kind == VALUE_EMBEDDING

    @property
    def hears_prompts(self) -> bool:
        """Whether anything is heard in the place of a prompt."""
        return self.scale is not None and self.kind != VALUE_EMBEDDING

    def table(self, step: int) -> tuple[Tensor, Tensor]:
        """Scale and shift [77, d] of a step."""
        assert self.scale is not None and self.shift is not None
        return self.scale[step], self.shift[step]

    def heard(self, step: int, values: Tensor) -> Tensor:
        """Conditional values [rows, T, d] under the value embedding: c * s + b where heard, fp32.

        The source hears it at every step, target rows their own prompt scaled and shifted.
        """
        if not self.hears_values:
            return values.float()
        scale, shift = (table.to(values.device) for table in self.table(step))
        found = value_input(values.float(), scale, shift)
        return torch.where(self.phases[step].hears.to(values.device), found, values)

    def self_rows(self, step: int, kinds: Kinds) -> Tensor | None:
        """For each row of a call the one whose query and key it has; None where its own."""
        phase = self.phases[step]
        key = id(phase), kinds
        if key not in self._self_rows:
            found = [place * self.rows + row for place, kind in enumerate(kinds)
                     for row in phase.looks[kind]]
            same = found == list(range(len(found)))
            self._self_rows[key] = None if same else _index(found, phase)
        return self._self_rows[key]

    def call_rows(self, step: int, kinds: Kinds, watched: bool) -> CallRows:
        """The rows of cross-attention in a call, in layers that are `watched` or not."""
        phase = self.phases[step]
        key = id(phase), kinds, watched and bool(phase.watched)
        if key not in self._call_rows:
            self._call_rows[key] = _call_rows(phase, self.rows, kinds, key[-1])
        return self._call_rows[key]


def _call_rows(phase: Phase, rows: int, kinds: Kinds, watched: bool) -> CallRows:
    count = rows * len(kinds)
    query, partner = list(range(count)), list(range(count))
    second, seen = [], []
    for place, kind in enumerate(kinds):
        if kind == CONDITIONAL:
            start = place * rows
            for row in phase.crossing.tolist():
                query[start + row] = start
            second += [start + row for row in phase.keeping.tolist()]
            seen += [start + row for row in phase.watched] if watched else []
    for place, row in enumerate(second, start=count):
        partner[row] = place
    looks = [*query, *second, *seen]
    return CallRows(
        count, None if looks == list(range(count)) else _index(looks, phase),
        _index(partner, phase) if second else None, count + len(second))


def _index(rows: list[int], phase: Phase) -> Tensor:
    return torch.tensor(rows, device=phase.hears.device)


def make_plan(
    control: Control | None, embedding: ValueEmbedding | None, steps: int, device: torch.device
) -> EditPlan:
    """The tables of a run over N steps, with its usual calls laid out."""
    phases = _phases(control, steps, device)
    rows = 1 if control is None else 1 + len(control.targets)
    if embedding is None:
        plan = EditPlan(rows, phases)
    else:
        scale, shift = embedding.scale.to(device), embedding.shift.to(device)
        plan = EditPlan(rows, phases, embedding.kind, scale, shift)
    for kinds in ((UNCONDITIONAL, CONDITIONAL), (CONDITIONAL,), (UNCONDITIONAL,)):
        for step in range(steps):
            plan.self_rows(step, kinds)
            for watched in (False, True):
                plan.call_rows(step, kinds, watched)
    return plan


def _phases(control: Control | None, steps: int, device: torch.device) -> tuple[Phase, ...]:
    if control is None:
        none = torch.empty(0, dtype=torch.int64, device=device)
        hears = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
        alone = {CONDITIONAL: (0,), UNCONDITIONAL: (0,)}
        return (Phase(hears, alone, none, none, none, none, (), none),) * steps
    value, layout, uncond = (control.held(tau, steps) for tau in ("tau_v", "tau_s", "tau_u"))
    first, second = control.weights(steps)
    mappers = control.mappers()
    made: dict[bytes, Phase] = {}
    phases = []
    for i in range(steps):
        parts = (value[i], layout[i], uncond[i], first[i], second[i])
        key = b"".join(part.numpy().tobytes() for part in parts)
        if key not in made:
            made[key] = _phase(control, mappers, *parts, device)
        phases.append(made[key])
    return tuple(phases)


def _phase(
    control: Control, mappers: Tensor, value: Tensor, layout: Tensor, uncond: Tensor,
    first: Tensor, second: Tensor, device: torch.device,
) -> Phase:
    targets = range(len(control.targets))
    crossing = [t for t in targets if first[t].any() or not (second[t] == 1).all()]
    keeping = [t for t in crossing if second[t].any()]
    twice = torch.tensor([2.0 if t in keeping else 1.0 for t in crossing]).view(-1, 1, 1)
    through = twice * mappers[crossing] * first[crossing].unsqueeze(1)
    watched, columns = _heat_columns(control, mappers, first, second)
    hears = torch.cat([torch.ones(1, dtype=torch.bool), value]).view(-1, 1, 1)
    return Phase(
        hears.to(device), {CONDITIONAL: _looks(layout), UNCONDITIONAL: _looks(uncond)},
        torch.tensor(crossing, dtype=torch.int64, device=device) + 1,
        torch.tensor(keeping, dtype=torch.int64, device=device) + 1,
        through.to(device), 2 * second[keeping].to(device), watched, columns.to(device))


def _looks(held: Tensor) -> tuple[int, ...]:
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
    own = second[blended].unsqueeze(-1) * target
    through = torch.cat([source, ours], -1)
    if not own.any():
        return (0,) * len(blended), through
    alone = torch.cat([torch.zeros_like(own), own], -1)
    rows = (*(0 for _ in blended), *(t + 1 for t in blended))
    return rows, torch.cat([through, alone])


def _words(target: Target, side: str, length: int) -> Tensor:
    """[L, 2]: the blend words and the subtract words of one target, zeros where it has none."""
    return torch.stack([
        torch.zeros(length) if masks is None else repeated(getattr(masks, side), length)
        for masks in (target.blend, target.subtract)], dim=-1)
