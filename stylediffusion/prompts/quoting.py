"""Other people's text, written so that a console can print it."""

from __future__ import annotations


def quoted(text: str, encoding: str = "utf-8") -> str:
    """Text with what an encoding cannot write as an escape, such as \\u0442.

    No encoding can write a lone surrogate: half of a character, as in names that are not UTF-8.
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def quote_error(error: BaseException, encoding: str) -> None:
    """Quote, in place, what an error says, and what those say that it came from."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        found = rest.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        rest += [found.__cause__, found.__context__]
        said = tuple(quoted(x, encoding) if isinstance(x, str) else x for x in found.args)
        if said != found.args:
            found.args = said
        for name in ("filename", "filename2"):
            if isinstance(getattr(found, name, None), str):
                setattr(found, name, quoted(getattr(found, name), encoding))
