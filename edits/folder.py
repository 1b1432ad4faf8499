"""What comes out: a picture for every edit under its own name, a CSV of all, and one of failures.

Pictures say how they were made, so what is finished is known by the files alone.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import pictures
from .graphs import Entry
from .rows import Failure
from .work import Picture

TABLE, FAILURES = "edits.csv", "failures.csv"
NOT_IN_TABLE = ("digest",)


class Folder:
    """An output folder, in which each method may have a folder of its own."""

    def __init__(self, path: Path, by_method: bool) -> None:
        self.path, self.by_method = path, by_method
        self.told: dict[Path, dict[str, Any]] = {}
        path.mkdir(parents=True, exist_ok=True)

    def file(self, entry: Entry) -> Path:
        """Where an entry's picture goes."""
        folder = self.path / entry.method.name if self.by_method else self.path
        return folder / f"{entry.row.name}.png"

    def finished(self, entry: Entry, digest: str) -> bool:
        """Whether the picture is there and was made from just this."""
        told = pictures.told(file := self.file(entry))
        if told is None or told.get("digest") != digest:
            return False
        self.told[file] = told
        return True

    def write(self, picture: Picture) -> None:
        """Write a picture beside its place, then rename."""
        replace_file(file := self.file(picture.entry), picture.data)
        self.told[file] = pictures.told(io.BytesIO(picture.data)) or {}

    def write_tables(self, entries: Sequence[Entry], failures: Sequence[Failure]) -> None:
        """Both tables, in the order of the entries; what is not finished has no line."""
        lines = self.lines(entries)
        replace_file(self.path / TABLE, as_csv(lines, list(dict.fromkeys(
            column for line in lines for column in line))))
        columns = ["row", "image", "target", "message"]
        replace_file(self.path / FAILURES, as_csv([asdict(f) for f in failures], columns))

    def lines(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """What every picture that was found finished, or written, says of itself."""
        told = (self.told.get(self.file(entry)) for entry in entries)
        return [{key: value for key, value in line.items() if key not in NOT_IN_TABLE}
                for line in told if line is not None]


def as_csv(lines: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """A CSV file with these columns; what a line lacks, or has as None, stays empty.

    A file name that is not UTF-8 has backslashes where it is not.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode(errors="backslashreplace")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that others see the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_bytes(data)
    beside.replace(path)
