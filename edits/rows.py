"""Rows of a table of edits, from a CSV, a folder of pictures, or PIE-Bench's mapping file."""

from __future__ import annotations

import ast
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TAUS = ("tau_v", "tau_c", "tau_s", "tau_u")
MODES = {"": "auto", "auto": "auto", "replace": "replace", "refine": "refine"}
PIE_FOLDER, PIE_SIDE = "annotation_images", 512


class BadRow(ValueError):
    """What is wrong with a row, and what to do about it."""


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


def read(path: Path) -> Table:
    """The table in a .csv, a mapping .json or a folder; raises ValueError where it is none."""
    make: Make
    if path.is_dir():
        entries, make = _captions(path), _from_caption
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


def without(table: Table, columns: list[str]) -> Table:
    """The table with some columns left empty, as if they had not been written."""
    empty: dict[str, Any] = {c: None if c in TAUS else "" for c in columns}
    return replace(table, rows=tuple(replace(row, **empty) for row in table.rows))


def _csv_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"prompt", "image_path", "target"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"'{path}' has no column '{sorted(missing)[0]}'; its first line must "
                             "name the columns: prompt, image_path, target, and any others")
        for entry in reader:
            yield f"line {reader.line_num}", dict(entry)


def _from_csv(path: Path, entry: Mapping[str, Any]) -> Row:
    def said(column: str) -> str:
        return (entry.get(column) or "").strip()

    image, truth = path.parent / said("image_path"), said("true_edit")
    mode = said("edit_type").lower()
    return Row(
        _own_name(image, path.parent), image, said("prompt"), said("target"),
        blend_words(said("blend_word")), emphasis(said("eq_params")),
        _tau(said, "tau_v"), _tau(said, "tau_c"), _tau(said, "tau_s"), _tau(said, "tau_u"),
        mode=MODES.get(mode, "auto"), kind=said("edit_type"),
        truth=path.parent / truth if truth else None)


def _captions(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One entry a line after the first of each caption file."""
    for image in sorted(folder.rglob("*")):
        if image.suffix.lower() not in PICTURES:
            continue
        name, caption = image.relative_to(folder).as_posix(), image.with_suffix(".txt")
        lines = [line.strip() for line in caption.read_text(encoding="utf-8-sig").splitlines()
                 if line.strip()] if caption.exists() else []
        entry = {"image_path": name, "prompt": lines[0] if lines else "", "file": caption.name}
        for number, target in enumerate(lines[1:] or [""], 2):
            yield f"{name}, line {number}", {**entry, "target": target}


def _from_caption(folder: Path, entry: Mapping[str, Any]) -> Row:
    if not entry["target"]:
        raise BadRow(f"'{entry['file']}' names no edit; its first line describes the picture, and "
                     "every further line is an edited prompt")
    image = folder / entry["image_path"]
    return Row(_own_name(image, folder), image, entry["prompt"], entry["target"])


def _mapping(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    for key, entry in found.items():
        yield f"entry {key}", {**entry, "target": entry.get("editing_prompt", "")}


def _from_mapping(path: Path, entry: Mapping[str, Any]) -> Row:
    image = path.parent / PIE_FOLDER / str(entry["image_path"])
    prompt, target = (" ".join(re.sub(r"[\[\]]", "", str(entry[name])).split())
                      for name in ("original_prompt", "editing_prompt"))
    words = str(entry.get("blended_word") or "").split()
    if len(words) not in (0, 2):
        raise BadRow(f"blended_word '{' '.join(words)}' is not a word of the prompt and one of the "
                     "target; write both, or nothing")
    runs = entry.get("mask") or ()
    return Row(_own_name(image, path.parent / PIE_FOLDER), image, prompt, target,
               ", ".join(dict.fromkeys(words)), kind=str(entry.get("editing_type_id", "")),
               mask=tuple(int(n) for n in (runs.split() if isinstance(runs, str) else runs)))


def blend_words(said: str) -> str:
    """"cat, tiger", or the released code's ((('cat',), ("tiger",))), as the node has it."""
    if not said.startswith(("(", "[")):
        return said
    words = list(_flat(_literal(said, "blend_word")))
    return ", ".join(dict.fromkeys(words))


def emphasis(said: str) -> str:
    """"tiger: 2", or the released code's {"words": ("tiger",), "values": (2,)}."""
    if not said.startswith("{"):
        return said
    found = _literal(said, "eq_params")
    words, values = (list(_flat(found.get(key, ()))) for key in ("words", "values"))
    if len(words) != len(values):
        raise BadRow(f"eq_params names {len(words)} words and {len(values)} values; give one value "
                     "a word")
    return ", ".join(f"{word}: {value}" for word, value in zip(words, values, strict=True))


def _literal(said: str, column: str) -> Any:
    try:
        return ast.literal_eval(said)
    except (ValueError, SyntaxError):
        raise BadRow(f"{column} '{said}' cannot be read; write words with commas between them"
                     ) from None


def _flat(found: Any) -> Iterator[str]:
    if isinstance(found, (list, tuple)):
        for part in found:
            yield from _flat(part)
    elif found is not None:
        yield str(found)


def _tau(said: Callable[[str], str], name: str) -> float | None:
    written = said(name)
    if not written:
        return None
    try:
        value = float(written)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadRow(f"{name} '{written}' is no share of the steps; write a number from 0 to 1")
    return value


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
    for what, text in (("prompt", row.prompt), ("target", row.target)):
        if not text:
            raise BadRow(f"the {what} is empty; describe the picture "
                         + ("as it is" if what == "prompt" else "as it should become"))
    for path in (row.image, row.truth):
        if path is not None and not path.is_file():
            raise BadRow(f"the picture '{path}' is not there")
    for column, text in (("blend_word", row.blend_words), ("eq_params", row.emphasis)):
        if re.search("[;\n]", text):
            raise BadRow(f"{column} '{text}' has more than one part; a row has one target")
    return replace(row, prompt=" ".join(row.prompt.split()), target=" ".join(row.target.split()))
