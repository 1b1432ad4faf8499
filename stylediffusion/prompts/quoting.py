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
        each = rest.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        rest += [each.__cause__, each.__context__]
        arguments = tuple(quoted(x, encoding) if isinstance(x, str) else x for x in each.args)
        if arguments != each.args:
            each.args = arguments
        for name in ("filename", "filename2"):
            if isinstance(getattr(each, name, None), str):
                setattr(each, name, quoted(getattr(each, name), encoding))
