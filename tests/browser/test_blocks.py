"""The ready-made block as a person meets it: found by its name, connected, and run by the page."""

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from development import examples, graphs
from development.server import checked

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from .window import Window

BLOCK, TITLE = "Prompt to Prompt Image Edit (StyleDiffusion)", "StyleDiffusion edit"
WRITTEN = {"prompt": "a painting of a red car in the snow",
           "targets": "a painting of a blue car in the snow", "blend_words": "car", "tau_s": 0.3}
CONNECTED = """written => {
    const block = app.graph._nodes[0]
    const kinds = ['StyleDiffusionLoadDemoModel', 'StyleDiffusionDemoScene',
                   'SaveImage', 'SaveImage']
    const [model, scene, save, same] = kinds.map(kind => LiteGraph.createNode(kind))
    for (const node of [model, scene, save, same]) app.graph.add(node)
    for (const name of ['model', 'clip', 'vae']) {
        model.connect(model.findOutputSlot(name), block, block.findInputSlot(name))
    }
    scene.connect(scene.findOutputSlot('image'), block, block.findInputSlot('image'))
    block.connect(block.findOutputSlot('edits'), save, save.findInputSlot('images'))
    block.connect(block.findOutputSlot('reconstruction'), same, same.findInputSlot('images'))
    for (const [name, value] of Object.entries(written)) {
        block.widgets.find(widget => widget.name === name).value = value
    }
}"""


def found(window: "Window", words: str) -> "Locator":
    """The block among what the open search finds for these words."""
    window.page.keyboard.press("Control+a")
    window.page.keyboard.type(words)
    block = window.page.get_by_role("option").filter(has_text=BLOCK)
    block.wait_for()
    return block


@pytest.fixture
def dropped(workbench: "Window") -> "Window":
    """A page with nothing but the block, from the search that a double click opens."""
    page = workbench.page
    page.evaluate("() => app.graph.clear()")
    workbench.settle()
    page.mouse.dblclick(800, 600)
    page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")
    found(workbench, "image edit")
    found(workbench, "prompt to prompt").click()
    workbench.settle()
    page.mouse.click(800, 300)
    workbench.until(lambda: page.evaluate("() => app.graph._nodes.length") == 1)
    return workbench


def test_the_page_runs_a_block_with_what_is_written_on_it(
    dropped: "Window"
) -> None:
    assert dropped.page.evaluate("() => app.graph._nodes[0].title") in (BLOCK, TITLE)
    dropped.page.evaluate(CONNECTED, WRITTEN)
    sent = dropped.page.evaluate("async () => (await app.graphToPrompt()).output")
    by_kind = {node["class_type"]: node["inputs"] for node in sent.values()}
    assert by_kind["StyleDiffusionDDIMInvert"]["prompt"] == WRITTEN["prompt"]
    control = by_kind["StyleDiffusionP2PlusController"]
    assert {name: control[name] for name in ("targets", "blend_words", "tau_s")} == {
        name: value for name, value in WRITTEN.items() if name != "prompt"}
    assert control["tau_c"] == 0.6
    (inverted,) = (node["inputs"] for node in sent.values()
                   if node["class_type"] == "StyleDiffusionDDIMInvert")
    inverted["steps"] = 5
    server = dropped.server
    entry = server.wait(server.queue(sent))
    assert checked(entry) is entry
    edits, reconstruction = ([Image.open(io.BytesIO(data)).convert("RGB") for data in files]
                             for _, files in sorted(server.images(entry).items()))
    assert len(edits) == 1 and len(reconstruction) == 1
    assert edits[0].tobytes() != reconstruction[0].tobytes()
    dropped.said_nothing()


def test_a_block_is_what_the_page_would_save(workbench: "Window") -> None:
    """Otherwise `python3 dev.py graphs` saves it anew."""
    shipped = examples.read(examples.BLOCKS / f"{BLOCK}.json")
    workbench.load(shipped)
    assert graphs.saved(workbench.page, shipped)[0] == shipped
