"""What the pack says, kept to what the host's console can print.

The host prints every error in the thread that runs graphs, and that thread ends where it cannot.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any, TypeVar

from ..prompts.quoting import quote_error, quoted

Node = TypeVar("Node", bound=type)
PRINTED = ("execute", "fingerprint_inputs")


def encoding() -> str:
    """That of the console, or UTF-8 where there is none."""
    return getattr(sys.stderr, "encoding", None) or "utf-8"


def shown(text: str) -> str:
    """Text as the console can print it."""
    return quoted(text, encoding())


def printable(record: logging.LogRecord) -> bool:
    """A filter for loggers: lets every record through, with its text as it can be printed."""
    said = record.getMessage()
    if shown(said) != said:
        record.msg, record.args = shown(said), None
    return True


def saying_what_can_be_printed(node: Node) -> Node:
    """The node itself, whose errors and those of what it calls can all be printed."""
    for name in PRINTED:
        if name in vars(node):
            setattr(node, name, classmethod(_guarded(getattr(node, name).__func__)))
    return node


def _guarded(method: Any) -> Any:
    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            quote_error(error, encoding())
            raise

    return guarded
