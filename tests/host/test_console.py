"""Whatever the pack says can be printed by the host's console."""

import asyncio
import io
import logging
import sys
import traceback
from typing import Any

import pytest
from stylediffusion_pack import nodes
from stylediffusion_pack.stylediffusion.host import console

TIGER = "\u0442\u0438\u0433\u0440"


NARROW = pytest.mark.parametrize("encoding", ["cp1252", "ascii"])


def narrowed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.TextIOWrapper:
    """A console of this encoding that dies of what it cannot print, as the host's does."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


class Failing:
    """A node with an error in whatever the host calls while it runs a graph."""

    @classmethod
    def execute(cls, text: str) -> Any:
        raise ValueError(f"'{text}' of {cls.__name__}")

    @classmethod
    def fingerprint_inputs(cls, text: str) -> Any:
        raise ValueError(f"'{text}' of {cls.__name__}")


@NARROW
@pytest.mark.parametrize("name", ["execute", "fingerprint_inputs"])
@pytest.mark.parametrize("text", [TIGER, "\ud800", "a \U0001f431"])
def test_a_nodes_error_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, encoding: str, name: str, text: str
) -> None:
    stream = narrowed(monkeypatch, encoding)
    node = console.saying_what_can_be_printed(type("Node", (), dict(vars(Failing))))
    with pytest.raises(ValueError, match="' of Node") as caught:
        getattr(node, name)(text)
    print("".join(traceback.format_exception(caught.value)), file=stream, flush=True)


def test_every_node_of_the_pack_is_kept_to_it_and_every_record() -> None:
    listed = asyncio.run(nodes.StyleDiffusionExtension().get_node_list())
    assert len(listed) > 10
    for node in listed:
        for name in {"execute", "fingerprint_inputs"} & vars(node).keys():
            assert getattr(node, name).__func__.__module__ == node.__module__
            assert getattr(node, name).__func__.__code__.co_name == "guarded", (node, name)
    assert console.printable in logging.getLogger("stylediffusion").filters


@NARROW
def test_a_warning_is_printed_with_escapes_and_else_as_it_is(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    stream = narrowed(monkeypatch, encoding)
    log = logging.Logger("test")
    log.addHandler(logging.StreamHandler(stream))
    log.addFilter(console.printable)
    log.warning("the word '%s' has %d letters", TIGER, 4)
    log.warning("the word '%s' has %d letters", "tiger", 5)
    stream.seek(0)
    assert stream.read().splitlines() == [
        r"the word '\u0442\u0438\u0433\u0440' has 4 letters", "the word 'tiger' has 5 letters"]


def test_without_a_console_only_lone_surrogates_are_escaped(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert console.shown(f"{TIGER}\ud800") == TIGER + r"\ud800"
