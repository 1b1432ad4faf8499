"""The shipped graphs: how large they are, and where their links run."""

from collections.abc import Iterator
from typing import Any

import pytest

from development.examples import EXAMPLES, workflow

# 0.75 of a window of 1366x640 holds them and 20 more at a zoom of 0.575, which still shows text.
WIDEST, HIGHEST = 1761, 800
TITLE, SLOT, LETTER = 30, 20, 8
Point = tuple[float, float]
every_graph = pytest.mark.parametrize("name", EXAMPLES)


def right_end(node: dict[str, Any]) -> float:
    """A collapsed node is as wide as its title, and no wider than open."""
    left, width = node["pos"][0], node["size"][0]
    title = node.get("title", node["type"])
    return left + (min(width, 2 * TITLE + LETTER * len(title)) if is_collapsed(node) else width)


def is_collapsed(node: dict[str, Any]) -> bool:
    return bool(node["flags"].get("collapsed"))


def boxes(graph: dict[str, Any]) -> dict[int, tuple[float, float, float, float]]:
    """(left, top, right, bottom) of every node with its title."""
    return {node["id"]: (
        node["pos"][0], node["pos"][1] - TITLE, right_end(node),
        node["pos"][1] + (0 if is_collapsed(node) else node["size"][1])) for node in graph["nodes"]}


def socket_height(node: dict[str, Any], row: int) -> float:
    """Where a row of sockets lies; all of a collapsed node's lie in its title."""
    return node["pos"][1] + (-TITLE / 2 if is_collapsed(node) else SLOT * (row + 0.5))


def row_of(node: dict[str, Any], place: int) -> int:
    """An input's row: those of widgets stand among them, below the rows of sockets."""
    sockets = [found for found in node["inputs"] if "widget" not in found]
    found = node["inputs"][place]
    return sockets.index(found) if found in sockets else max(len(sockets), len(node["outputs"]))


def ways(graph: dict[str, Any]) -> Iterator[tuple[int, list[Point]]]:
    """(number, corners) of every link: its output, its bends, its input."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    bends = {bend["id"]: bend for bend in graph["extra"]["reroutes"]}
    last = {found["id"]: found["parentId"] for found in graph["extra"]["linkExtensions"]}
    for number, origin, slot, target, place, _ in graph["links"]:
        start, end = nodes[origin], nodes[target]
        between, bend = [], last.get(number)
        while bend:
            assert number in bends[bend]["linkIds"]
            between.append((bends[bend]["pos"][0], bends[bend]["pos"][1]))
            bend = bends[bend].get("parentId")
        yield number, [
            (right_end(start), socket_height(start, slot)), *reversed(between),
            (end["pos"][0], socket_height(end, row_of(end, place)))]


def meets(one: Point, other: Point, box: tuple[float, float, float, float]) -> bool:
    """Whether a straight line comes inside a box, its edge left out."""
    points = [tuple(a + (b - a) * i / 400 for a, b in zip(one, other, strict=True))
              for i in range(401)]
    return any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)


def test_a_line_through_a_box_is_found_and_one_along_its_edge_is_not() -> None:
    assert meets((0, 0), (10, 10), (4, 4, 6, 6))
    assert not meets((0, 4), (10, 4), (4, 4, 6, 6))


@every_graph
def test_a_graph_is_no_larger_than_a_small_window_shows_readably(name: str) -> None:
    found = boxes(workflow(name)).values()
    assert max(b[2] for b in found) - min(b[0] for b in found) <= WIDEST
    assert max(b[3] for b in found) - min(b[1] for b in found) <= HIGHEST


@every_graph
def test_no_link_runs_behind_a_node(name: str) -> None:
    graph = workflow(name)
    behind = [(number, node) for number, corners in ways(graph)
              for one, other in zip(corners, corners[1:], strict=False)
              for node, box in boxes(graph).items() if meets(one, other, box)]
    assert behind == []


@every_graph
def test_every_node_stands_in_a_group_of_its_own_column(name: str) -> None:
    graph = workflow(name)
    for left, top, right, bottom in boxes(graph).values():
        assert sum(x <= left and y <= top and right <= x + width and bottom <= y + height
                   for x, y, width, height in (g["bounding"] for g in graph["groups"])) == 1
