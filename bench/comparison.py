"""Methods side by side from the lines of edits.csv: means, and differences edit by edit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A number of every edit: its title, its decimals, and whether more of it is better.

    `better` is 1, -1, or 0 where neither is. `value` reads it from a line; None leaves it out.
    """

    name: str
    title: str
    decimals: int
    better: int
    value: Callable[[Line], float | None]


def _written(name: str, times: float = 1) -> Callable[[Line], float | None]:
    def value(line: Line) -> float | None:
        found = line.get(name)
        return None if found is None else times * float(found)

    return value


def _of_batch(name: str) -> Callable[[Line], float | None]:
    def value(line: Line) -> float | None:
        return float(line[name]) / float(line["edits_in_batch"]) if name in line else None

    return value


COLUMNS = (
    Column("psnr_inside", "inside, to the true edit, dB", 2, 1, _written("psnr_inside")),
    Column("psnr_outside", "outside, dB", 2, 1, _written("psnr_outside")),
    Column("right", "named right by the judge, %", 0, 1, _written("right", 100)),
    Column("structure_distance_judge", "structure distance, judge's features, x1000", 2, -1,
           _written("structure_distance_judge")),
    Column("psnr_unmasked", "PSNR, unmasked pixels, dB", 2, 1, _written("psnr_unmasked")),
    Column("psnr_published", "PSNR as published, dB", 2, 1, _written("psnr_published")),
    Column("ssim_published", "SSIM as published", 4, 1, _written("ssim_published")),
    Column("psnr", "PSNR to the source, dB", 2, 0, _written("psnr")),
    Column("ssim", "SSIM to the source", 4, 0, _written("ssim")),
    Column("psnr_reconstruction", "reconstruction, dB", 2, 1, _written("psnr_reconstruction")),
    Column("unet_rows_once", "UNet rows once a picture", 0, -1, _written("unet_rows_once")),
    Column("unet_rows_edit", "UNet rows an edit", 0, -1, _of_batch("unet_rows_batch")),
    Column("seconds_once", "seconds once a picture", 1, -1, _written("seconds_once")),
    Column("seconds_edit", "seconds an edit", 1, -1, _of_batch("seconds_batch")),
)
PAIRED = ("psnr_inside", "psnr_outside", "structure_distance_judge", "psnr_unmasked")


@dataclass(frozen=True)
class Difference:
    """A column of a method minus that of another on the same edits.

    `deviation` is the standard deviation of the differences. `error` is the standard error of
    the pictures' means, since edits of one picture go up and down together; None for one picture.
    """

    mean: float
    deviation: float
    error: float | None
    better: int
    count: int


def methods_of(lines: Iterable[Line]) -> list[str]:
    """In the order they come."""
    return list(dict.fromkeys(str(line["method"]) for line in lines))


def columns_of(lines: Sequence[Line]) -> list[Column]:
    """Those that any line has."""
    return [column for column in COLUMNS if any(column.value(line) is not None for line in lines)]


def mean(lines: Iterable[Line], column: Column) -> float | None:
    """Over the lines that have the number; None where none has."""
    values = [value for line in lines if (value := column.value(line)) is not None]
    return statistics.fmean(values) if values else None


def table(lines: Sequence[Line]) -> dict[str, dict[str, float | None]]:
    """For each method the means of all columns."""
    columns = columns_of(lines)
    return {method: {column.name: mean(own, column) for column in columns}
            for method, own in _by_method(lines).items()}


def paired(lines: Sequence[Line], against: str) -> dict[str, dict[str, Difference]]:
    """For each other method, by column, its differences to `against` edit by edit."""
    own = _by_method(lines)
    base = {line["name"]: line for line in own.get(against, [])}
    columns = [column for column in columns_of(lines) if column.name in PAIRED]
    return {method: {column.name: found for column in columns
                     if (found := _difference(rows, base, column)) is not None}
            for method, rows in own.items() if method != against}


def _difference(rows: list[Line], base: Mapping[str, Line], column: Column) -> Difference | None:
    by_image: dict[str, list[float]] = {}
    for line in rows:
        other = base.get(line["name"], {})
        one, against = column.value(line), column.value(other)
        if one is not None and against is not None:
            by_image.setdefault(str(line["image"]), []).append(one - against)
    found = [difference for own in by_image.values() for difference in own]
    if not found:
        return None
    means = [statistics.fmean(own) for own in by_image.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
    return Difference(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0,
                      error, sum(column.better * value > 0 for value in found), len(found))


def _by_method(lines: Sequence[Line]) -> dict[str, list[Line]]:
    return {method: [line for line in lines if line["method"] == method]
            for method in methods_of(lines)}


def by_kind(lines: Sequence[Line], column: str) -> dict[str, dict[str, float | None]]:
    """For each method the means of one column by kind of edit."""
    (wanted,) = (found for found in COLUMNS if found.name == column)
    kinds = list(dict.fromkeys(str(line["kind"]) for line in lines))
    return {method: {kind: mean([line for line in own if line["kind"] == kind], wanted)
                     for kind in kinds}
            for method, own in _by_method(lines).items()}


def shown(value: float | None, decimals: int) -> str:
    """A number as tables have it."""
    return "" if value is None else f"{value:.{decimals}f}"
