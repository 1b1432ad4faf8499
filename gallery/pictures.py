"""The pictures command: everything that the README, the templates and the help pages show.

Every example graph that needs no download is run in the real page and photographed with its
results: docs/, and one picture a node in web/docs/images. Cards beside the graphs show results.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from development import browser, examples
from development.environment import ensure
from development.examples import EXAMPLES
from development.places import ROOT
from development.server import Server, checked
from training.demo import write_demo

from . import cards

SIZE = {"width": 2600, "height": 1700}
DOCS, NODES = ROOT / "docs", ROOT / "web" / "docs" / "images"
SHEETS = {"See where words look": ("StyleDiffusionHeatmaps", "heatmaps"),
          "Sweep two taus": ("StyleDiffusionTauSweep", "tau_sweep")}
OPENS_A_FILE = "Edit a saved inversion"  # which another graph has written
GRAPH_WIDTH, NODE_SCALE = 1800, 1.5
NODE_SIDE, NODE_BYTES = 900, 40_000
SETTLING_MS, RUN_SECONDS = 1500, 900.0
SETTINGS = {"Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Graph.CanvasInfo": False}
ONLY_THE_GRAPH = """.photographed * { visibility: hidden !important }
    .photographed :is([id="graph-canvas"], .dom-widget, .dom-widget *) {
        visibility: visible !important
    }
    .photographed .dom-widget [style*="visibility: hidden"] { visibility: hidden !important }"""
# What a view shows, given the part of the canvas; the part of the page that then holds it.
LOOK = """([left, top, right, bottom, scale]) => {
    for (const node of app.graph._nodes) node.has_errors = false
    app.canvas.deselectAll()
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [60 / scale - left, 60 / scale - top]
    app.canvas.setDirty(true, true)
    const canvas = app.canvas.canvas.getBoundingClientRect()
    return {x: 60 + canvas.x, y: 60 + canvas.y, width: (right - left) * scale,
            height: (bottom - top) * scale}
}"""
BOUNDS = """() => app.graph._groups.map(g => g._bounding ?? [...g.pos, ...g.size])
    .concat(app.graph._nodes.map(n => [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]))
    .map(box => [box[0], box[1], box[0] + box[2], box[1] + box[3]])"""
OURS = """() => app.graph._nodes.filter(n => n.type.startsWith('StyleDiffusion')
        && !n.inputs?.some(input => input.name === 'prompt' && input.link != null))
    .map(n => [n.type, [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]])"""
ALONE = """kind => {
    app.graph.clear()
    app.graph.add(LiteGraph.createNode(kind))
}"""


def main() -> None:
    """Make all pictures."""
    NODES.mkdir(exist_ok=True)
    shown: set[str] = set()
    with browser.page_of("pictures", SETTINGS, viewport=SIZE) as (page, server):
        server.upload_image("example.png", (server.host / "input" / "example.png").read_bytes())
        page.add_style_tag(content=ONLY_THE_GRAPH)
        for name in sorted(EXAMPLES, key=lambda name: (bool(examples.models(name)),
                                                       name == OPENS_A_FILE)):
            print(name, flush=True)
            photograph_graph(page, server, name, shown)
            cards.write_card(server, name)
        cards.edits_sheet(server).save(DOCS / "edits.png")
        for kind in sorted(path.stem for path in NODES.parent.glob("*.md")):
            if kind not in shown:
                page.evaluate(ALONE, kind)
                photograph_nodes(page, shown)
    found = ensure()
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(found.python, found.host, found.base_directory("demo")) as server,
    ):
        write_demo(server, Path(folder), time.monotonic())
        shutil.copyfile(Path(folder) / "demo.png", DOCS / "demo.png")


def photograph_graph(page: Any, server: Server, name: str, shown: set[str]) -> None:
    """What a graph gives, the demo as a whole, and pictures of nodes that are not yet shown."""
    graph = examples.workflow(name)
    page.evaluate("graph => app.loadGraphData(graph, true, true)", graph)
    page.wait_for_timeout(SETTLING_MS)
    if not examples.models(name):
        images = run(page, server)
        kind, file = SHEETS.get(name, (None, None))
        sheets = [node["id"] for node in graph["nodes"] if node["type"] == kind]
        for node_id in sheets[:1]:
            (DOCS / f"{file}.png").write_bytes(images[str(node_id)][0])
    if name == "Demo":
        photograph_whole(page).save(DOCS / "graph.jpg", quality=88)
    photograph_nodes(page, shown)


def photograph_whole(page: Any) -> Image.Image:
    """All of the graph that is open."""
    boxes = page.evaluate(BOUNDS)
    left, top = (min(box[i] for box in boxes) - 10 for i in (0, 1))
    right, bottom = (max(box[i] for box in boxes) + 10 for i in (2, 3))
    scale = min(GRAPH_WIDTH / (right - left), (SIZE["height"] - 150) / (bottom - top))
    return view(page, (left, top, right, bottom), scale)


def run(page: Any, server: Server) -> dict[str, list[bytes]]:
    """Press Run, wait for the end, and return the pictures by node id."""
    server.forget()  # or nodes that another graph has run would show no previews
    before = set(server.get_json("/history"))
    page.get_by_test_id("queue-button").click()
    end = time.monotonic() + RUN_SECONDS
    while not (ended := set(server.get_json("/history")) - before):
        if time.monotonic() > end:
            raise TimeoutError(f"the run took more than {RUN_SECONDS:.0f} s")
        page.wait_for_timeout(200)
    page.wait_for_timeout(SETTLING_MS)
    return server.images(checked(server.get_json(f"/history/{(key := ended.pop())}")[key]))


def photograph_nodes(page: Any, shown: set[str]) -> None:
    """One picture for every node of the pack in this graph that has none yet."""
    for kind, (left, top, right, bottom) in page.evaluate(OURS):
        if kind not in shown:
            shown.add(kind)
            image = view(page, (left - 6, top - 6, right + 6, bottom + 6), NODE_SCALE)
            (NODES / f"{kind}.jpg").write_bytes(small_jpeg(image))


def view(page: Any, box: tuple[float, float, float, float], scale: float) -> Image.Image:
    """A part of the canvas without the page around it."""
    page.evaluate("() => document.body.classList.add('photographed')")
    clip = page.evaluate(LOOK, [*box, scale])
    page.wait_for_timeout(SETTLING_MS)
    taken = page.screenshot(clip=clip)
    page.evaluate("() => document.body.classList.remove('photographed')")
    return Image.open(io.BytesIO(taken)).convert("RGB")


def small_jpeg(image: Image.Image) -> bytes:
    """A JPEG that a help page loads at once."""
    image.thumbnail((NODE_SIDE, NODE_SIDE))
    for quality in range(90, 20, -5):
        written = io.BytesIO()
        image.save(written, "JPEG", quality=quality, optimize=True)
        if written.tell() <= NODE_BYTES:
            break
    return written.getvalue()


if __name__ == "__main__":
    main()
