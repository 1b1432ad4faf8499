"""What single columns of a table say, read as data; raises BadRow with the column and the value."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

REMEDIES = {"blend_word": "write words with commas between them",
            "eq_params": "write each word, a colon and a number: tiger: 2"}


class BadRow(ValueError):
    """What is wrong with a row, and what to do about it."""


def picture(folder: Path, said: str, column: str) -> Path:
    """A picture file by its path from the table's folder on."""
    if not said:
        raise BadRow(f"{column} is empty; write the picture's path from '{folder}' on")
    path = folder / said
    try:
        with path.open("rb"):
            return path
    except FileNotFoundError:
        raise BadRow(f"the picture '{path}' is not there; write its path from '{folder}' on into "
                     f"{column}") from None
    except (OSError, ValueError) as error:  # a folder, one that is locked, a name too long
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadRow(f"the picture '{path}', which {column} names, cannot be opened: {reason}"
                     ) from None


def text(entry: Mapping[str, Any], column: str) -> str:
    """A column that has to be there, of an entry that may hold anything."""
    if column not in entry:
        raise BadRow(f"{column} is missing; write it as a text")
    if not isinstance(found := entry[column], str):
        raise BadRow(f"{column} is {found!r}; write it as a text")
    return found


def blend_words(said: str) -> str:
    """"cat, tiger", or the released code's ((('cat',), ("tiger",))), as the node has it."""
    if not said.startswith(("(", "[")):
        return said
    words = list(_flat(_literal(said, "blend_word")))
    if not all(isinstance(word, str) for word in words):
        raise _unreadable(said, "blend_word")
    return ", ".join(dict.fromkeys(words))


def emphasis(said: str) -> str:
    """"tiger: 2", or {"tiger": 2}, or the released {"words": ("tiger",), "values": (2,)}."""
    if not said.startswith("{"):
        return said
    found = _literal(said, "eq_params")
    if not isinstance(found, dict):
        raise _unreadable(said, "eq_params")
    words, values = list(found), list(found.values())
    if {"words", "values"} & found.keys():
        words, values = (list(_flat(found.get(key, ()))) for key in ("words", "values"))
    if len(words) != len(values):
        raise BadRow(f"eq_params '{said}' names {len(words)} words and {len(values)} values; give "
                     "one value a word")
    for word, value in zip(words, values, strict=True):
        if not isinstance(word, str) or not _is_number(value):
            raise BadRow(f"eq_params '{said}' gives {word!r} the number {value!r}; "
                         + REMEDIES["eq_params"])
    return ", ".join(f"{word}: {value}" for word, value in zip(words, values, strict=True))


def tau(said: Callable[[str], str], name: str) -> float | None:
    """A share of the steps; None where nothing is written."""
    written = said(name)
    if not written:
        return None
    value = float(written) if _is_number(written) else -1.0
    if not 0 <= value <= 1:
        raise BadRow(f"{name} '{written}' is no share of the steps; write a number from 0 to 1")
    return value


def runs(said: Any) -> tuple[int, ...]:
    """A mask's (start, length) pairs, one after the other, from a list or a text of numbers."""
    found = said.split() if isinstance(said, str) else said or []
    if not isinstance(found, list):
        raise BadRow(f"mask {said!r} is no list of numbers; write a start and a length for each "
                     "run, or leave it out")
    for number in found:
        if not re.fullmatch("[0-9]{1,9}", str(number)):
            raise BadRow(f"mask holds {number!r}, which is no number of pixels; write a start and "
                         "a length for each run")
    if len(found) % 2:
        raise BadRow(f"mask has {len(found)} numbers, an odd count; write a start and a length "
                     "for each run")
    return tuple(int(number) for number in found)


def _literal(said: str, column: str) -> Any:
    try:
        return ast.literal_eval(said)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise _unreadable(said, column) from None


def _unreadable(said: str, column: str) -> BadRow:
    return BadRow(f"{column} '{said}' cannot be read; {REMEDIES[column]}")


def _flat(found: Any) -> Iterator[Any]:
    if isinstance(found, (list, tuple)):
        for part in found:
            yield from _flat(part)
    elif found is not None:
        yield found


def _is_number(said: Any) -> bool:
    try:
        float(str(said))
    except ValueError:
        return False
    return True
