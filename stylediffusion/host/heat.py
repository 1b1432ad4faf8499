"""Where words look: sums of cross-attention columns, by attention on one-hot values.

A map's column for a word is attention whose value is 1 at the word's tokens and 0 elsewhere, so the
map itself never has to exist. A head of width d carries d words at the price of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..artifacts import AttentionLayer
from ..control import Control, Target, repeated
from .attention import (
    CONDITIONAL,
    AttentionReplacement,
    ExtraOptions,
    conditional_chunks,
    fused_attention,
    on_grid,
    sampling_step,
)


def column_sums(q: Tensor, k: Tensor, columns: Tensor, extra: ExtraOptions) -> Tensor:
    """sum over heads of softmax(q k^T) @ columns: [rows, h * w, c] from columns [rows, T, c].

    Keys that the host repeats, beside a longer negative prompt, share what their column has.
    """
    heads = extra["n_heads"]
    columns = columns.repeat(1, k.shape[1] // columns.shape[1], 1)
    width = q.shape[-1] // heads
    parts = []
    for part in columns.to(q).split(width, dim=-1):
        value = q.new_zeros(len(q), k.shape[1], heads, width)
        value[..., : part.shape[-1]] = part.unsqueeze(2)
        out = fused_attention(q, k, value.flatten(2), extra)
        parts.append(out.unflatten(-1, (heads, width))[..., : part.shape[-1]].float().sum(2))
    return torch.cat(parts, dim=-1)


class WordHeat:
    """Running sums over steps, heads and layers of the blend words' columns, as edited."""

    def __init__(
        self, control: Control, mappers: Tensor, first: Tensor, second: Tensor,
        layers: tuple[AttentionLayer, ...],
    ) -> None:
        self.layers = layers
        self.mappers, self.first, self.second = mappers, first, second
        self.targets = control.targets
        self.source_words, self.target_words = (
            torch.stack([self._masks(target, side, control.tokens) for target in self.targets])
            .to(first)
            for side in ("source", "target"))
        self.sums: Tensor | None = None

    @staticmethod
    def _masks(target: Target, side: str, length: int) -> Tensor:
        """[L, 2]: the blend words and the subtract words of one target, zeros where it has none."""
        return torch.stack([
            torch.zeros(length) if masks is None else repeated(getattr(masks, side), length)
            for masks in (target.blend, target.subtract)], dim=-1)

    def watch(
        self, layer: AttentionLayer, q: Tensor, k: Tensor, extra: ExtraOptions, step: int
    ) -> None:
        """Add one layer's columns of this step, from the queries and keys of all rows."""
        for kind, rows in conditional_chunks(len(q), extra):
            if kind == CONDITIONAL:
                found = self._columns(q[rows], k[rows], extra, step)
                found = on_grid(found.permute(0, 2, 3, 1), layer, extra)
                self.sums = found if self.sums is None else self.sums + found

    def _columns(self, q: Tensor, k: Tensor, extra: ExtraOptions, step: int) -> Tensor:
        """[targets, h * w, source or target, blend or subtract]."""
        count = len(self.targets)
        weighted = self.first[step].unsqueeze(-1) * self.target_words
        through_source = torch.cat([self.source_words, self.mappers @ weighted])
        seen = column_sums(q[:1], k[:1], through_source.movedim(0, 1).flatten(1)[None], extra)
        source, edited = seen[0].unflatten(-1, (2, count, 2)).unbind(1)
        own = self.second[step].unsqueeze(-1) * self.target_words
        edited = edited.movedim(1, 0)
        if bool((own != 0).any()):
            edited = edited + column_sums(q[1:], k[1:], own, extra)
        return torch.stack([source.movedim(1, 0), edited], dim=2)

    def by_target(self) -> list[tuple[Tensor | None, Tensor | None]]:
        """Heat [1, 2, h, w] of blend and of subtract words for each target, None where unasked."""
        assert self.sums is not None
        return [
            (None if target.blend is None else self.sums[i : i + 1, :, 0],
             None if target.subtract is None else self.sums[i : i + 1, :, 1])
            for i, target in enumerate(self.targets)
        ]


class PromptHeat:
    """Running sums over steps, heads and layers of some columns of one row's maps, as edited.

    `columns` [T, words] over the row's tokens; row 0 is the source, row t the t-th target.
    """

    def __init__(
        self, columns: Tensor, steps: Sequence[int], row: int, control: Control | None, count: int,
        device: torch.device,
    ) -> None:
        self.steps, self.row = steps, row
        self.through_source, self.own = columns.expand(count, -1, -1).to(device), None
        if control is not None and row:
            columns = repeated(columns.T, control.tokens).T
            first, second = (side[:, row - 1, :, None] for side in control.weights(count))
            self.through_source = (control.mappers()[row - 1] @ (first * columns)).to(device)
            self.own = (second * columns).to(device)
        self.sums: Tensor | None = None

    def replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """The attention of one layer as it is, watched at the chosen steps."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            step = sampling_step(extra)
            if step in self.steps:
                for kind, rows in conditional_chunks(len(q), extra):
                    if kind == CONDITIONAL:
                        found = self._columns(q[rows], k[rows], extra, step).T
                        found = on_grid(found, layer, extra)
                        self.sums = found if self.sums is None else self.sums + found
            return fused_attention(q, k, v, extra)

        return attend

    def _columns(self, q: Tensor, k: Tensor, extra: ExtraOptions, step: int) -> Tensor:
        """[h * w, words] of the row's edited map: the source's share and its own."""
        found = column_sums(q[:1], k[:1], self.through_source[step : step + 1], extra)
        if self.own is not None and bool((self.own[step] != 0).any()):
            own = slice(self.row, self.row + 1)
            found = found + column_sums(q[own], k[own], self.own[step : step + 1], extra)
        return found[0]
