"""Rows of a table of edits, from a CSV, a folder of pictures, or PIE-Bench's mapping file."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import columns
from .columns import BadRow

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TAUS = ("tau_v", "tau_c", "tau_s", "tau_u")
MODES = {"": "auto", "auto": "auto", "replace": "replace", "refine": "refine"}
PIE_FOLDER, PIE_SIDE = "annotation_images", 512
BEYOND = "what stands behind the last column"


@dataclass(frozen=True)
class Row:
    """One edit of one picture. A tau that is None is the method's; masks are flat runs.

    `name` is the edited picture's path below the output folder, without its suffix; `truth` a
    picture of what the edit should have become, where that is known. `mask` holds (start, length)
    pairs over 512x512 pixels, row by row.
    """

    name: str
    image: Path
    prompt: str
    target: str
    blend_words: str = ""
    emphasis: str = ""
    tau_v: float | None = None
    tau_c: float | None = None
    tau_s: float | None = None
    tau_u: float | None = None
    mode: str = "auto"
    kind: str = ""
    truth: Path | None = None
    mask: tuple[int, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A row that gave no picture, and why, in the words of whoever refused it."""

    row: str
    image: str
    target: str
    message: str


@dataclass(frozen=True)
class Table:
    """All rows that can be tried, in the table's order, and those that cannot."""

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]


Make = Callable[[Path, Mapping[str, Any]], Row]


def read(path: Path, out: Path | None = None) -> Table:
    """The table in a .csv, a mapping .json or a folder; raises ValueError where it is none.

    What lies in `out`, where the edits go, is none of a folder's own pictures.
    """
    make: Make
    if not path.exists():
        raise ValueError(f"'{path}' is not there; give a table of edits, or a folder of pictures")
    if path.is_dir():
        entries, make = _captions(path, _inside(path, out)), _from_caption
    elif path.suffix == ".csv":
        entries, make = _csv_lines(path), _from_csv
    elif path.suffix == ".json":
        entries, make = _mapping(path), _from_mapping
    else:
        raise ValueError(f"'{path}' is no table of edits; give a .csv, PIE-Bench's "
                         "mapping_file.json, or a folder of pictures with a .txt beside each")
    rows, failures = [], []
    for place, entry in entries:
        try:
            rows.append(_checked(make(path, entry)))
        except BadRow as error:
            failures.append(Failure(place, str(entry.get("image_path") or ""),
                                    str(entry.get("target") or ""), str(error)))
    return Table(tuple(_named_apart(rows)), tuple(failures))


def without(table: Table, names: list[str]) -> Table:
    """The table with some columns left empty, as if they had not been written."""
    empty: dict[str, Any] = {name: None if name in TAUS else "" for name in names}
    return replace(table, rows=tuple(replace(row, **empty) for row in table.rows))


def _text(path: Path) -> str:
    """What a text file holds; raises ValueError that names it where that cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not in UTF-8, from its byte {error.start} on; save it as "
                         "UTF-8") from None
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}") from None


def _csv_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), restkey=BEYOND)
    try:
        missing = {"prompt", "image_path", "target"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"'{path}' has no column '{sorted(missing)[0]}'; its first line must "
                             "name the columns: prompt, image_path, target, and any others")
        for entry in reader:
            yield f"line {reader.line_num}", dict(entry)
    except csv.Error as error:
        raise ValueError(f"'{path}' cannot be read, at its line {reader.line_num}: {error}; look "
                         "for a quote that is not closed, there or before") from None


def _from_csv(path: Path, entry: Mapping[str, Any]) -> Row:
    def said(column: str) -> str:
        return (entry.get(column) or "").strip()

    if beyond := [value for value in entry.get(BEYOND, ()) if value.strip()]:
        raise BadRow(f"'{beyond[0]}' stands behind the last column; put quotes around a text that "
                     "has commas")
    image = columns.picture(path.parent, said("image_path"), "image_path")
    mode, truth = said("edit_type").lower(), said("true_edit")
    return Row(
        _own_name(image, path.parent), image, said("prompt"), said("target"),
        columns.blend_words(said("blend_word")), columns.emphasis(said("eq_params")),
        columns.tau(said, "tau_v"), columns.tau(said, "tau_c"), columns.tau(said, "tau_s"),
        columns.tau(said, "tau_u"),
        mode=MODES.get(mode, "auto"), kind=said("edit_type"),
        truth=columns.picture(path.parent, truth, "true_edit") if truth else None)


def _inside(folder: Path, out: Path | None) -> Path | None:
    """The output folder as it lies in a folder of pictures; None where it lies elsewhere."""
    if out is None or not out.resolve().is_relative_to(folder.resolve()):
        return None
    if out.resolve() == folder.resolve():
        raise ValueError(f"'{out}' is the folder of the pictures itself, where edits would be "
                         f"taken for pictures the next time; give --out {folder / 'edited'}, say")
    return folder / out.resolve().relative_to(folder.resolve())


def _captions(folder: Path, out: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """One entry a line after the first of each caption file, but for pictures in `out`."""
    for image in sorted(folder.rglob("*")):
        if image.suffix.lower() not in PICTURES or (out and image.is_relative_to(out)):
            continue
        name, caption = image.relative_to(folder).as_posix(), image.with_suffix(".txt")
        entry, lines = {"image_path": name, "file": caption.name}, []
        try:
            said = _text(caption) if caption.exists() else ""
            lines = [line.strip() for line in said.splitlines() if line.strip()]
        except ValueError as error:
            entry["wrong"] = str(error)
        for number, target in enumerate(lines[1:] or [""], 2):
            yield f"{name}, line {number}", {
                **entry, "prompt": lines[0] if lines else "", "target": target}


def _from_caption(folder: Path, entry: Mapping[str, Any]) -> Row:
    if "wrong" in entry:
        raise BadRow(entry["wrong"])
    if not entry["target"]:
        raise BadRow(f"'{entry['file']}' names no edit; its first line describes the picture, and "
                     "every further line is an edited prompt")
    image = columns.picture(folder, entry["image_path"], "the folder")
    return Row(_own_name(image, folder), image, entry["prompt"], entry["target"])


def _mapping(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' holds no entries by name; give PIE-Bench's mapping_file.json, "
                         "or write the edits as a .csv")
    for key, entry in found.items():
        told = entry if isinstance(entry, dict) else {}
        yield f"entry {key}", {**told, "target": told.get("editing_prompt", "")}


def _from_mapping(path: Path, entry: Mapping[str, Any]) -> Row:
    prompt, target = (re.sub(r"[\[\]]", "", columns.text(entry, name))
                      for name in ("original_prompt", "editing_prompt"))
    folder = path.parent / PIE_FOLDER
    image = columns.picture(folder, columns.text(entry, "image_path"), "image_path")
    words = columns.text(entry, "blended_word").split() if entry.get("blended_word") else []
    if len(words) not in (0, 2):
        raise BadRow(f"blended_word '{' '.join(words)}' is not a word of the prompt and one of the "
                     "target; write both, or nothing")
    return Row(_own_name(image, folder), image, prompt, target, ", ".join(dict.fromkeys(words)),
               kind=str(entry.get("editing_type_id", "")), mask=columns.runs(entry.get("mask")))


def _own_name(image: Path, folder: Path) -> str:
    inside = image.is_relative_to(folder) and ".." not in image.relative_to(folder).parts
    kept = image.relative_to(folder) if inside else Path(image.name)
    return kept.with_suffix("").as_posix()


def _named_apart(rows: list[Row]) -> Iterator[Row]:
    """Rows whose pictures would overwrite each other get a number behind their name."""
    total = Counter(row.name for row in rows)
    taken = {name for name, count in total.items() if count == 1}
    for row in rows:
        if total[row.name] == 1:
            yield row
            continue
        numbered = (f"{row.name}_{number}" for number in itertools.count(1))
        name = next(name for name in numbered if name not in taken)
        taken.add(name)
        yield replace(row, name=name)


def _checked(row: Row) -> Row:
    row = replace(row, prompt=" ".join(row.prompt.split()), target=" ".join(row.target.split()))
    for what, text in (("prompt", row.prompt), ("target", row.target)):
        if not text:
            raise BadRow(f"the {what} is empty; describe the picture "
                         + ("as it is" if what == "prompt" else "as it should become"))
    for column, text in (("blend_word", row.blend_words), ("eq_params", row.emphasis)):
        if re.search("[;\uff1b\n]", text):
            raise BadRow(f"{column} '{text}' has more than one part; a row has one target")
    return row
