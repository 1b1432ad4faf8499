"""The shipped graphs: how large they are, and in which groups their nodes stand."""

from typing import Any

import pytest

from development.examples import EXAMPLES, workflow

# 0.75 of a window of 1366x640 holds them and 20 more at a zoom of 0.575, which still shows text.
WIDEST, HIGHEST = 1761, 800
TITLE, LETTER = 30, 8
every_graph = pytest.mark.parametrize("name", EXAMPLES)


def right_end(node: dict[str, Any]) -> float:
    """A collapsed node is as wide as its title, and no wider than open."""
    left, width = node["pos"][0], node["size"][0]
    title = node.get("title", node["type"])
    return left + (min(width, 2 * TITLE + LETTER * len(title)) if is_collapsed(node) else width)


def is_collapsed(node: dict[str, Any]) -> bool:
    return bool(node["flags"].get("collapsed"))


def boxes(graph: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) of every node with its title."""
    return [(node["pos"][0], node["pos"][1] - TITLE, right_end(node),
             node["pos"][1] + (0 if is_collapsed(node) else node["size"][1]))
            for node in graph["nodes"]]


@every_graph
def test_a_graph_is_no_larger_than_a_small_window_shows_readably(name: str) -> None:
    found = boxes(workflow(name))
    assert max(b[2] for b in found) - min(b[0] for b in found) <= WIDEST
    assert max(b[3] for b in found) - min(b[1] for b in found) <= HIGHEST


@every_graph
def test_every_node_stands_in_a_group_of_its_own_column(name: str) -> None:
    graph = workflow(name)
    for left, top, right, bottom in boxes(graph):
        assert sum(x <= left and y <= top and right <= x + width and bottom <= y + height
                   for x, y, width, height in (g["bounding"] for g in graph["groups"])) == 1
