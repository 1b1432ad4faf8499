"""The pictures command: thumbnails of the example graphs and the README's, from the real page.

Needs Playwright (pip install playwright) and a Chromium or Chrome on the PATH.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
from typing import Any

from PIL import Image

from .environment import ensure
from .examples import EXAMPLES, FOLDER
from .places import ROOT
from .server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZE, WIDTH = {"width": 1900, "height": 1100}, 1000
READY = """() => window.app?.graph && window.LiteGraph
    ?.registered_node_types['StyleDiffusionSample']"""
ONLY_THE_GRAPH = """body * { visibility: hidden !important }
    #graph-canvas, .dom-widget, .dom-widget * { visibility: visible !important }"""
FIT = """() => {
    const boxes = app.graph._groups.map(g => [...g.pos, g.pos[0] + g.size[0], g.pos[1] + g.size[1]])
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(b => b[i])) - 10)
    const [right, bottom] = [2, 3].map(i => Math.max(...boxes.map(b => b[i])) + 10)
    for (const node of app.graph._nodes) node.has_errors = false
    const view = app.canvas.ds
    view.scale = Math.min(1800 / (right - left), 1000 / (bottom - top))
    view.offset = [60 / view.scale - left, 60 / view.scale - top]
    app.canvas.setDirty(true, true)
    const canvas = app.canvas.canvas.getBoundingClientRect()
    return {x: 60 + canvas.x, y: 60 + canvas.y, width: (right - left) * view.scale,
            height: (bottom - top) * view.scale}
}"""
SETTLING_MS = 1500


def main() -> int:
    """Draw every graph in the page; the exit code is 1 where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or importlib.util.find_spec("playwright") is None:
        print("This needs Chromium and, in this Python, Playwright: "
              f"{sys.executable} -m pip install playwright", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    found = ensure()
    with (
        Server(found.python, found.host, found.base_directory("pictures")) as server,
        sync_playwright() as playwright,
    ):
        page = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox"]).new_page(viewport=SIZE)
        page.goto(server.url)
        page.wait_for_function(READY)
        page.wait_for_timeout(SETTLING_MS)
        for name in EXAMPLES:
            keep(name, screenshot(page, name))
            print(name, flush=True)
    return 0


def screenshot(page: Any, name: str) -> Image.Image:
    """A graph as the page shows it, without the page around it."""
    graph = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate("graph => window.app.loadGraphData(graph, true, true)", graph)
    page.wait_for_timeout(SETTLING_MS)
    page.add_style_tag(content=ONLY_THE_GRAPH)
    box = page.evaluate(FIT)
    page.wait_for_timeout(SETTLING_MS)
    return Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")


def keep(name: str, image: Image.Image) -> None:
    """The thumbnail beside the graph; the demo's is the README's picture as well."""
    small = image.resize((WIDTH, round(image.height * WIDTH / image.width)))
    small.save(FOLDER / f"{name}.jpg", quality=85)
    if name == "demo_edit":
        image.save(ROOT / "docs" / "graph.jpg", quality=88)


if __name__ == "__main__":
    sys.exit(main())
