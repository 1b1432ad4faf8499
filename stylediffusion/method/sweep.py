"""One edit under many windows: the cells of a sweep over two of the taus."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .prompt_to_prompt import TAUS, Control, Target, Window


@dataclass(frozen=True)
class Axis:
    """A tau and the windows it takes in turn, each with the text it was written as."""

    tau: str
    windows: tuple[tuple[str, Window], ...]

    @property
    def labels(self) -> list[str]:
        """What stands beside each row or below each column."""
        return [f"{self.tau} {text}" for text, _ in self.windows]


def cells(target: Target, rows: Axis, columns: Axis) -> tuple[Target, ...]:
    """The target under every pair of windows, row by row."""
    return tuple(
        replace(target, windows={**target.windows, rows.tau: one, columns.tau: other})
        for _, one in rows.windows for _, other in columns.windows)


def distinct(control: Control, steps: int) -> tuple[list[int], list[int]]:
    """(targets whose windows hold other steps than all before, for each target its place in them).

    Windows that round to the same steps paint the same picture.
    """
    held = torch.stack([control.held(tau, steps) for tau in TAUS]).flatten(0, 1)
    keys = [tuple(column.tolist()) for column in held.unbind(1)]
    first: dict[tuple[bool, ...], int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    places = {key: place for place, key in enumerate(first)}
    return list(first.values()), [places[key] for key in keys]
