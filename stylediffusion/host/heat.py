"""Where words look: sums of cross-attention columns, by attention on one-hot values.

A map's column for a word is attention whose value is 1 at the word's tokens and 0 elsewhere, so the
map itself never has to exist. A head of width d carries d words at the price of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import latent_preview
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..drawing import sheets
from ..method.data import CONDITIONAL, Trajectory
from ..method.layers import AttentionLayer
from ..method.prompt_to_prompt import Control, repeated
from .attention import (
    AttentionReplacement,
    ExtraOptions,
    branch_rows,
    fused_attention,
    on_grid,
    sampling_step,
)
from .model import ModelPatcher


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
        out = fused_attention(q, k, rearrange(value, "b t h d -> b t (h d)"), extra)
        sums = rearrange(out, "b n (h d) -> b h n d", h=heads)[..., : part.shape[-1]]
        parts.append(sums.float().sum(1))
    return torch.cat(parts, dim=-1)


class PromptHeat:
    """Running sums over steps, heads and layers of some columns of one row's maps, as edited.

    `columns` [T, words] over the row's tokens; row 0 is the source, row t the t-th target.
    """

    def __init__(
        self, columns: Tensor, steps: Sequence[int], row: int, control: Control | None, count: int,
        device: torch.device,
    ) -> None:
        self.steps, self.row = steps, row
        self.through_source, self.through_target = columns.expand(count, -1, -1).to(device), None
        if control is not None and row:
            columns = repeated(columns.T, control.tokens).T
            first, second = (side[:, row - 1, :, None] for side in control.weights(count))
            self.through_source = (control.mappers()[row - 1] @ (first * columns)).to(device)
            target_columns = second * columns
            self.keeps = target_columns.flatten(1).any(1).tolist()
            self.through_target = target_columns.to(device)
        self.sums: Tensor | None = None
        self.seen: set[int] = set()
        self._call: tuple[Tensor, int] | None = None

    def replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """The attention of one layer as it is, watched at the chosen steps."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            step = self._step(extra)
            if step in self.steps:
                self.seen.add(step)
                for branch, rows in branch_rows(len(q), extra["cond_or_uncond"]):
                    if branch == CONDITIONAL:
                        columns = self._columns(q[rows], k[rows], extra, step).T
                        columns = on_grid(columns, layer, extra)
                        self.sums = columns if self.sums is None else self.sums + columns
            return fused_attention(q, k, v, extra)

        return attend

    def _step(self, extra: ExtraOptions) -> int:
        """The step of a call, which all its layers share: one read of the device."""
        if self._call is None or self._call[0] is not extra["sigmas"]:
            self._call = extra["sigmas"], sampling_step(extra)
        return self._call[1]

    def _columns(self, q: Tensor, k: Tensor, extra: ExtraOptions, step: int) -> Tensor:
        """[h * w, words] of the row's edited map: the source's share and its own."""
        columns = column_sums(q[:1], k[:1], self.through_source[step : step + 1], extra)
        if self.through_target is not None and self.keeps[step]:
            row = slice(self.row, self.row + 1)
            own = self.through_target[step : step + 1]
            columns = columns + column_sums(q[row], k[row], own, extra)
        return columns[0]


def background(model: ModelPatcher, trajectory: Trajectory) -> Tensor:
    """The clean latent in the colours of the host's previews, at the picture's size; or grey."""
    form = model.get_model_object("latent_format")
    height, width = (n * form.spacial_downscale_ratio for n in trajectory.latents.shape[-2:])
    if form.latent_rgb_factors is None:
        return torch.full((height, width, 3), 0.5)
    previewer = latent_preview.Latent2RGBPreviewer(
        form.latent_rgb_factors, form.latent_rgb_factors_bias, form.latent_rgb_factors_reshape)
    seen = sheets.picture_of(previewer.decode_latent_to_preview(trajectory.latents[:1].clone()))
    smooth = F.interpolate(rearrange(seen, "h w c -> 1 c h w"), (height, width), mode="bilinear")
    return rearrange(smooth, "1 c h w -> h w c")
