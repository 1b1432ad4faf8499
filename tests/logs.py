"""What a server's console says against the pack: warnings, errors and tracebacks."""

from __future__ import annotations

import re

from development.server import COLOUR, Server

COMPLAINT = re.compile(
    r"\[(WARNING|ERROR|CRITICAL)\]|Traceback \(most recent call last\)|\w(Warning|Error): |FAILED")


def read(server: Server) -> str:
    """All that the server has written until now, without colours."""
    return COLOUR.sub("", server.log.read_bytes().decode("utf-8", "replace"))


def complaints(written: str) -> list[str]:
    """The lines that complain; a progress bar ends its line with a carriage return."""
    return [line for line in re.split(r"[\r\n]+", written) if COMPLAINT.search(line)]
