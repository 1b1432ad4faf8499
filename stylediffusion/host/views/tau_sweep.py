"""A sweep over two taus: all cells as rows of one batch, or of as few as memory allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ...drawing import sheets
from ...method.data import Embedding, ValueEmbedding
from ...method.prompt_to_prompt import Control, Target
from ...method.sweep import Axis, cells, distinct
from ..edit.request import Edit
from ..edit.sampling import sample_edits
from ..inputs import decoded


def sweep(
    edit: Edit, vae: Any, axes: tuple[Axis, Axis], place: int
) -> tuple[dict[str, Any], Tensor]:
    """(LATENT of all cells, row by row, and their labelled grid [1, H, W, 3]).

    `place` counts the control's targets from 1. Raises ValueError where an axis has no effect.
    """
    require_effect(axes, edit.embedding)
    assert edit.control is not None
    target = target_at(edit.control, place)
    swept = replace(edit.control, targets=cells(target, *axes))
    samples = sample_cells(replace(edit, control=swept))
    pictures = decoded(vae, samples)[..., :3]
    return {"samples": samples}, labelled_grid(target.prompt, axes, pictures)


def require_effect(axes: tuple[Axis, Axis], embedding: Embedding | None) -> None:
    """Raise ValueError for a sweep over tau_v where there is no value embedding."""
    if not isinstance(embedding, ValueEmbedding) and "tau_v" in [axis.tau for axis in axes]:
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


def sample_cells(edit: Edit) -> Tensor:
    """Host-unit samples of every target, without the source; what is the same is painted once."""
    assert edit.control is not None
    kept, places = distinct(edit.control, edit.trajectory.steps)
    chosen = replace(edit.control, targets=tuple(edit.control.targets[i] for i in kept))
    painted: Tensor = sample_edits(replace(edit, control=chosen))["samples"][1:][places]
    return painted


def labelled_grid(prompt: str, axes: tuple[Axis, Axis], pictures: Tensor) -> Tensor:
    """A sheet [1, H, W, 3]: a row of pictures under each label, a label below each picture."""
    rows, columns = (axis.labels for axis in axes)
    tiles = [list(zip(columns, [""] * len(columns), line, strict=True))
             for line in pictures.split(len(columns))]
    return sheets.sheet(f"\u201c{prompt}\u201d", list(zip(rows, tiles, strict=True)))[None]
