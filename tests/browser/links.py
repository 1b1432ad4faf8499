"""Where the page draws the links of a graph, and behind which nodes they run."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.browser.window import Window

# [number, title, left, top, right, bottom] of every node, and of a block's two panels, in the
# canvas' own units: on the canvas what it draws, in Nodes 2.0 what stands in the document.
BOXES = """() => {
    const { graph, ds: { scale } } = app.canvas
    const box = (node, title) => {
        const shown = document.querySelector(`[data-node-id="${node.id}"]`)
        const [left, top] = [node.pos[0], node.pos[1] - title]
        const { width, height } = shown?.getBoundingClientRect() ?? {}
        const size = shown ? [width / scale, height / scale] : [...node.boundingRect].slice(2)
        return [node.id, node.title ?? 'panel', left, top, left + size[0], top + size[1]]
    }
    return [...graph._nodes.map(node => box(node, LiteGraph.NODE_TITLE_HEIGHT)),
            ...[graph.inputNode, graph.outputNode].filter(Boolean).map(panel => box(panel, 0))]
}"""
# [output's node, input's node, curves] of every link; a curve is four points, the first curve is
# the one that ends at the input.
CURVES = """() => {
    const { moveTo, bezierCurveTo } = Path2D.prototype
    const drawn = new Map()
    Path2D.prototype.moveTo = function (...start) {
        drawn.set(this, start)
        moveTo.apply(this, start)
    }
    Path2D.prototype.bezierCurveTo = function (...rest) {
        drawn.get(this).push(...rest)
        bezierCurveTo.apply(this, rest)
    }
    app.canvas.draw(true, true)
    Object.assign(Path2D.prototype, { moveTo, bezierCurveTo })
    const { links, reroutes } = app.canvas.graph
    return [...links.values()].map(link => {
        const curves = []
        for (let part = link; part; part = reroutes.get(part.parentId)) {
            curves.push(drawn.get(part.path))
        }
        return [link.origin_id, link.target_id, curves]
    })
}"""
EDGE, SOCKET = 3, 26  # a link may touch a node's edge, and lies within a node at its sockets


def boxes(window: "Window") -> list[list[Any]]:
    """Every node as BOXES tells it."""
    found: list[list[Any]] = window.page.evaluate(BOXES)
    return found


def behind(window: "Window") -> list[tuple[str, str, str]]:
    """(output's node, input's node, node before it) of every link that runs behind a node."""
    numbers, titles, *sides = zip(*boxes(window), strict=True)
    edges = np.array(sides).T
    found = []
    for origin, target, curves in window.page.evaluate(CURVES):
        start, end = numbers.index(origin), numbers.index(target)
        covered = inside(points(curves), edges, start, end).any(0)
        found += [(titles[start], titles[end], titles[node]) for node in np.flatnonzero(covered)]
    return found


def points(curves: list[list[float]]) -> Any:
    """(n, 2) points along a link, from its output to its input."""
    t = np.linspace(0, 1, 100)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3])
    return np.concatenate([weights @ np.reshape(curve, (4, 2)) for curve in reversed(curves)])


def inside(way: Any, edges: Any, start: int, end: int) -> Any:
    """(points, nodes): which points lie within which nodes; a link's own sockets do not count."""
    corner, other = edges[:, :2] + EDGE, edges[:, 2:] - EDGE
    within = ((way[:, None] > corner) & (way[:, None] < other)).all(2)
    for node, socket in ((start, way[0]), (end, way[-1])):
        within[np.linalg.norm(way - socket, axis=1) <= SOCKET, node] = False
    return within
