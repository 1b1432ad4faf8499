"""What a person writes beside the prompts: "tiger: 1.5", "tau_c: 0.1-0.6", lists of words."""

from __future__ import annotations

import re

from ..method.prompt_to_prompt import TAUS, Window
from ..method.sweep import Axis
from .words import fold, likeness

# A dash, a star or a bullet, or a number with a dot or a bracket, before the text of a line.
_MARKER = re.compile(
    r"\s*(?:[-*\u2022\u00b7\u2013\u2014]\s+|\(?\d+(?:[.)\uff0e\uff09]\s+|\u3001\s*))")
_SEPARATOR = re.compile("[;\uff1b\n]")
_COMMA = "[,\uff0c\u3001]"
# A comma in a number is a decimal one where what follows is neither a word nor a space.
_DECIMAL = re.compile(r"(?<=\d),(?=\d+\s*(?:[-\u2013)]|[,\uff0c\n]|$))")


def target_lines(targets: str, source: str) -> tuple[list[str], list[str]]:
    """(the target prompts, what was read otherwise than line by line, in words).

    List markers go where every line has one. Several lines are one prompt where the source prompt
    has several too and is more like all of them than like any one. Raises ValueError for an empty
    line, or where there is none.
    """
    lines = [line.strip() for line in targets.strip().splitlines()]
    if not lines:
        raise ValueError("targets is empty; write the edited prompt, one edit a line")
    if "" in lines:
        raise ValueError(
            f"line {lines.index('') + 1} of targets is empty; remove it or write a prompt")
    said = []
    if all(map(_is_marked, lines)) and not _is_marked(source):
        lines = [_MARKER.sub("", line, 1) for line in lines]
        said.append(f"the list markers of targets are left out; its first prompt is '{lines[0]}'")
    whole = " ".join(lines)
    if len(lines) > 1 and likeness(whole, source) > max(likeness(line, source) for line in lines):
        if len(source.strip().splitlines()) > 1:
            lines = [whole]
            said.append(f"the lines of targets are read as one prompt, as the source is: '{whole}'")
        else:
            said.append(
                f"the {len(lines)} lines of targets are read as so many edits; if they are one "
                "prompt, write it on one line")
    return lines, said


def _is_marked(line: str) -> bool:
    match = _MARKER.match(line)
    return match is not None and match.end() < len(line)


def parts_of(text: str, count: int, what: str) -> list[tuple[str, list[int]]]:
    """(part, places of the targets it speaks of): one part for all, or one for each target.

    Parts stand between semicolons or on lines of their own. Raises ValueError on any other number.
    """
    parts = [part.strip() for part in _SEPARATOR.split(text)]
    if len(parts) == count > 1:
        return [(part, [place]) for place, part in enumerate(parts)]
    if len([part for part in parts if part]) <= 1:
        return [("".join(parts), list(range(count)))]
    raise ValueError(
        f"{what} has {len(parts)} parts between semicolons, but the number of targets is {count}; "
        "write one part for all, or one a target (an empty one asks for nothing)"
    )


def require_readable(
    targets: str | None, emphasis: str, windows: str, blend_words: str, subtract_words: str
) -> None:
    """Raise ValueError where what was typed is wrong whatever the source prompt is.

    Targets that are None are not known yet.
    """
    count = None if targets is None else len(target_lines(targets, "")[0])
    for what, text in (("blend_words", blend_words), ("subtract_words", subtract_words)):
        _parts(text, count, what)
    for part in _parts(emphasis, count, "emphasis"):
        for name, value in pairs(part, "emphasis"):
            factor(value, name)
    for part in _parts(one_line(windows), count, "windows"):
        for name, value in pairs(part, "windows"):
            window(value, name)


def _parts(text: str, count: int | None, what: str) -> list[str]:
    return [part for part, _ in parts_of(text, count or len(_SEPARATOR.split(text)), what)]


def one_line(text: str) -> str:
    """Windows written on several lines as the one list that they are."""
    return text.replace("\n", ",")


def phrases(text: str) -> list[str]:
    """What stands between commas: words, or several words that belong together."""
    return [" ".join(part.split()) for part in re.split(_COMMA, text) if part.strip()]


def pairs(text: str, what: str) -> list[tuple[str, str]]:
    """(name, value) of "name: value, name: value".

    Also read are name=value, (name:value) and a decimal comma. Raises ValueError quoting what is
    none of them, or a name that is written twice.
    """
    numbers: dict[str, tuple[str, str]] = {}
    for item in re.split(rf"{_COMMA}|\n", _DECIMAL.sub(".", text)):
        item = item.strip()
        if not item:
            continue
        inside = item[1:-1] if item[0] == "(" and item[-1] == ")" else item
        parts = re.fullmatch(r"(.*)[:\uff1a=](.*)", inside)
        name, value = (part.strip() for part in parts.groups()) if parts else ("", "")
        if not name or not value:
            raise ValueError(
                f"'{item}' in {what} is not of the form 'word: number'; write a colon and a "
                "number behind the word")
        if fold(name) in numbers:
            raise ValueError(
                f"'{name}' has two numbers in {what}, '{numbers[fold(name)][1]}' and '{value}'; "
                "keep one")
        numbers[fold(name)] = (name, value)
    return list(numbers.values())


def factor(value: str, name: str) -> float:
    """An emphasis. Raises ValueError where it is no number from -10 to 10."""
    try:
        number = float(fold(value))
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
    match = re.fullmatch(r"(?:([0-9]*\.?[0-9]+)\s*-\s*)?([0-9]*\.?[0-9]+)", fold(value).strip())
    if not match:
        raise ValueError(f"the window '{value}' of '{name}' is not of the form 0.1-0.6")
    start, end = float(match[1] or 0), float(match[2])
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
    texts: dict[Window, str] = {}
    for part in re.split(r"[,;\s]+", re.sub(r"\s*-\s*", "-", text)):
        if part:
            texts.setdefault(window(part, name), part)
    if not texts:
        raise ValueError(f"there is no value of '{name}'; write some, for example 0, 0.3, 0.6")
    return [(part, span) for span, part in texts.items()]


def make_axes(rows: tuple[str, str], columns: tuple[str, str]) -> tuple[Axis, Axis]:
    """Rows and columns of a sweep, each from (tau, its values as written).

    Raises ValueError where both are the same tau, or values are none.
    """
    if rows[0] == columns[0]:
        raise ValueError(
            f"rows and columns are both {rows[0]}; choose two different ones of {', '.join(TAUS)}")
    first, second = (Axis(tau, tuple(windows(text, tau))) for tau, text in (rows, columns))
    return first, second
