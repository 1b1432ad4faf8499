"""What a person writes beside the prompts: "tiger: 1.5", "tau_c: 0.1-0.6", lists of words."""

from __future__ import annotations

import re

from .control import Window


def parts_of(text: str, count: int, what: str) -> list[tuple[str, list[int]]]:
    """(part, places of the targets it speaks of): one part for all, or one for each target.

    Parts stand between semicolons or on lines of their own. Raises ValueError on any other number.
    """
    parts = [part.strip() for part in re.split(r"[;\n]", text)]
    if len(parts) == count > 1:
        return [(part, [place]) for place, part in enumerate(parts)]
    if len([part for part in parts if part]) <= 1:
        return [("".join(parts), list(range(count)))]
    raise ValueError(
        f"{what} has {len(parts)} parts between semicolons, but the number of targets is {count}; "
        "write one part for all, or one a target (an empty one asks for nothing)"
    )


def word_list(text: str) -> list[str]:
    """Words between commas or spaces."""
    return [word for word in re.split(r"[,\s]+", text) if word]


def pairs(text: str, what: str) -> list[tuple[str, str]]:
    """(name, value) of "name: value, name: value". Raises ValueError quoting what is neither."""
    found = []
    for item in re.split(r"[,\n]+", text):
        if not item.strip():
            continue
        name, colon, value = item.rpartition(":")
        if not colon or not name.strip() or not value.strip():
            raise ValueError(f"'{item.strip()}' in {what} is not of the form 'word: number'")
        found.append((name.strip(), value.strip()))
    return found


def factor(value: str, name: str) -> float:
    """An emphasis. Raises ValueError where it is no number from -10 to 10."""
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not -10 <= number <= 10:
        raise ValueError(
            f"the emphasis '{value}' of '{name}' is not a number between -10 and 10; 1 leaves the "
            "word as it is, 2 doubles it, 0 silences it"
        )
    return number


def window(value: str, name: str) -> Window:
    """A window "0.1-0.6", or its end "0.6". Raises ValueError where it is none."""
    found = re.fullmatch(r"(?:([0-9]*\.?[0-9]+)\s*-\s*)?([0-9]*\.?[0-9]+)", value.strip())
    if not found:
        raise ValueError(f"the window '{value}' of '{name}' is not of the form 0.1-0.6")
    start, end = float(found[1] or 0), float(found[2])
    if not start <= end <= 1:
        raise ValueError(
            f"the window '{value}' of '{name}' must run from a smaller to a larger number, both "
            "between 0 and 1"
        )
    return Window(start, end)


def windows(text: str, name: str) -> list[tuple[str, Window]]:
    """(text, window) of each of "0, 0.3, 0.1-0.6", every window once.

    Raises ValueError for a part that is none, or where nothing is written.
    """
    found: dict[Window, str] = {}
    for part in re.split(r"[,;\s]+", re.sub(r"\s*-\s*", "-", text)):
        if part:
            found.setdefault(window(part, name), part)
    if not found:
        raise ValueError(f"there is no value of '{name}'; write some, for example 0, 0.3, 0.6")
    return [(part, made) for made, part in found.items()]
