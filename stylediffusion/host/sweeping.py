"""A sweep over two taus: all cells as rows of one batch, or of as few as memory allows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .. import sheets
from ..artifacts import VALUE_EMBEDDING, Trajectory, ValueEmbedding
from ..control import Control, Target
from ..sweep import Axis, cells, distinct
from .guider import sample_edits
from .model import ModelPatcher

MARGIN = 1.5


def sweep(
    model: ModelPatcher, vae: Any, trajectory: Trajectory, embedding: ValueEmbedding | None,
    control: Control, axes: tuple[Axis, Axis], place: int, guidance: float,
) -> tuple[dict[str, Any], Tensor]:
    """(LATENT of all cells, row by row, and their labelled grid [1, H, W, 3]).

    `place` counts the control's targets from 1. Raises ValueError where an axis has no effect.
    """
    require_effect(axes, embedding)
    target = target_at(control, place)
    made = replace(control, targets=cells(target, *axes))
    samples = sample_cells(model, trajectory, embedding, made, guidance)
    pictures = vae.decode(samples)[..., :3].float().cpu()
    return {"samples": samples}, labelled_grid(target.prompt, axes, pictures)


def require_effect(axes: tuple[Axis, Axis], embedding: ValueEmbedding | None) -> None:
    """Raise ValueError for a sweep over tau_v where there is no value embedding to hear."""
    heard = embedding is not None and embedding.kind == VALUE_EMBEDDING
    if not heard and "tau_v" in [axis.tau for axis in axes]:
        raise ValueError(
            "tau_v has no effect without a value embedding; connect Learn Value Embedding, or "
            "choose another tau"
        )


def target_at(control: Control, place: int) -> Target:
    """The target on a line of the controller; raises ValueError where there is none."""
    if not 1 <= place <= len(control.targets):
        raise ValueError(
            f"target is {place}, but the number of targets in the control is "
            f"{len(control.targets)}; set target to a line of the controller"
        )
    return control.targets[place - 1]


def sample_cells(
    model: ModelPatcher, trajectory: Trajectory, embedding: ValueEmbedding | None,
    control: Control, guidance: float,
) -> Tensor:
    """Host-unit samples of every target, without the source; what is the same is painted once."""
    kept, places = distinct(control, trajectory.steps)
    runs = math.ceil(len(kept) / cells_at_once(model, trajectory, len(kept)))
    size = math.ceil(len(kept) / runs)
    painted = []
    for start in range(0, len(kept), size):
        chosen = tuple(control.targets[i] for i in kept[start : start + size])
        latent = sample_edits(
            model, trajectory, embedding, replace(control, targets=chosen), guidance)
        painted.append(latent["samples"][1:])
    return torch.cat(painted)[places]


def cells_at_once(model: ModelPatcher, trajectory: Trajectory, count: int) -> int:
    """How many of `count` cells fit beside the source, by the host's estimate; at least one.

    The host puts other models aside for them, but not this one's weights.
    """

    def needed(rows: int) -> float:
        return MARGIN * model.memory_required([1 + rows, *trajectory.latents.shape[1:]])

    comfy.model_management.load_models_gpu(
        [model], memory_required=needed(count), minimum_memory_required=needed(1))
    free = model.get_free_memory(model.load_device)
    return next((rows for rows in range(count, 1, -1) if needed(rows) <= free), 1)


def labelled_grid(prompt: str, axes: tuple[Axis, Axis], pictures: Tensor) -> Tensor:
    """A sheet [1, H, W, 3]: a row of pictures under each label, a label below each picture."""
    rows, columns = (axis.labels for axis in axes)
    tiles = [list(zip(columns, [""] * len(columns), line, strict=True))
             for line in pictures.split(len(columns))]
    return sheets.sheet(f"\u201c{prompt}\u201d", list(zip(rows, tiles, strict=True)))[None]
