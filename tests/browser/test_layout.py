"""Every template as it opens: whole in the window, large enough to be read, nothing covered."""

import io
import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from development.examples import EXAMPLES
from tests.browser.conftest import MODES, NODES_2
from tests.browser.links import behind, boxes
from tests.browser.test_running import open_short
from tests.browser.test_words import moved_and_undone, panel, show, word
from tests.browser.words import words_script

if TYPE_CHECKING:
    from tests.browser.window import Window

WINDOWS = ((1366, 640), (1600, 950), (1920, 1080))
# The canvas leaves out all text below 8 / 14 = 0.571, by the page's default.
READABLE = 0.575
pytestmark = pytest.mark.usefixtures("photo")
ZOOM = "() => app.canvas.ds.scale"
OPENED = "() => app.graph._nodes.forEach(node => { node.showAdvanced = true })"
IN_DOCUMENT = "() => document.querySelectorAll('[data-node-id]').length"


def overlaps(window: "Window") -> list[tuple[str, str]]:
    """The titles of every two nodes of which one covers a part of the other."""
    nodes = boxes(window)
    return [(one[1], other[1]) for i, one in enumerate(nodes) for other in nodes[i + 1:]
            if all(one[k] < other[k + 2] and other[k] < one[k + 2] for k in (2, 3))]


def test_two_boxes_that_share_a_part_are_found_and_so_is_a_link_behind_one(
    either: "Window"
) -> None:
    either.fetch("Demo")
    either.settle()
    assert either.page.evaluate(IN_DOCUMENT) == (14 if is_new(either) else 0)
    either.page.evaluate("""() => {
        const [note, model] = app.graph._nodes
        note.pos = [model.pos[0] + 200, model.pos[1]]
    }""")
    either.settle()
    titles: list[str] = either.page.evaluate("() => app.graph._nodes.map(node => node.title)")
    assert (titles[0], titles[1]) in overlaps(either)
    assert titles[0] in {node for *_, node in behind(either)}


def test_in_the_block_no_node_is_over_another_or_a_link(either: "Window") -> None:
    either.fetch("Change a photo in one node")
    either.page.evaluate("() => app.canvas.setGraph([...app.graph.subgraphs.values()][0])")
    either.settle()
    assert overlaps(either) == []
    assert behind(either) == []
    either.page.evaluate("() => app.canvas.setGraph(app.graph)")


def is_new(window: "Window") -> bool:
    found: bool = window.page.evaluate(
        "name => app.extensionManager.setting.get(name)", NODES_2)
    assert found in MODES.values()
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_template_opens_at_a_zoom_that_shows_its_text_with_no_node_over_another_or_a_link(
    either: "Window", name: str
) -> None:
    page = either.page
    zooms = {}
    try:
        for width, height in WINDOWS if name == "Demo" else WINDOWS[:1]:  # the least of all zooms
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_function("size => app.canvas.canvas.clientWidth > 0.9 * size", arg=width)
            either.fetch(name)
            zooms[width, height] = page.evaluate(ZOOM)
        either.settle()
        assert overlaps(either) == []
        assert behind(either) == []
        page.evaluate(OPENED)
        either.settle()
        assert overlaps(either) == []
        assert behind(either) == []
    finally:
        page.set_viewport_size({"width": 1600, "height": 950})
    assert min(zooms.values()) >= READABLE, zooms
    either.said_nothing()


def heat(window: "Window", line: int, text: str) -> tuple[str | None, str | None, bool]:
    """(caption, heat, whether its colours cover the grey) while the pointer is on a word."""
    word(window, line, text).first.hover()
    shown = panel(window).locator("figure")
    shown.wait_for(state="visible", timeout=3000)
    window.page.wait_for_function("""figure => [...figure.querySelectorAll('img')]
        .every(image => image.complete)""", arg=shown.element_handle())
    picture = Image.open(io.BytesIO(shown.locator("div").screenshot())).convert("HSV")
    vivid = picture.getchannel("S").getextrema()[1] > 100
    window.page.mouse.move(0, 300)
    return (shown.locator("figcaption").text_content(),
            shown.locator("img").nth(1).get_attribute("src"), vivid)


def test_after_a_run_no_picture_covers_another_node_reports_outlive_an_undo_and_words_show_heat(
    either: "Window"
) -> None:
    open_short(either)
    assert overlaps(either) == []
    either.run()
    assert overlaps(either) == []
    assert behind(either) == []
    either.page.evaluate(OPENED)
    either.settle()
    assert overlaps(either) == []
    assert behind(either) == []
    said = [either.page.get_by_text(text) for text in (
        re.compile(r"^difference outside the edits: 0\s+kept of the photo: "),
        re.compile(r"^reconstruction \d\d\.\d\d dB, ceiling "))]
    assert [report.is_visible() for report in said] == [True, True]
    moved_and_undone(either)
    assert [report.is_visible() for report in said] == [True, True]
    for command in ("Comfy.NewBlankWorkflow", "Workspace.PreviousOpenedWorkflow"):
        either.page.evaluate("id => app.extensionManager.command.execute(id)", command)
        either.settle()
    assert [report.is_visible() for report in said] == [True, True]
    show(either)
    seen = [heat(either, line, text) for line, text in (
        (0, "brown"), (0, "orange"), (0, "city"), (1, "cat"))]
    assert [caption for caption, *_ in seen] == [
        f"Where “{text}” looks, half-way through the inversion"
        for text in ("brown", "brown", "city", "cat")]
    assert len({address for _, address, _ in seen}) == 3 and all(vivid for *_, vivid in seen)
    assert panel(either).locator("figure").is_hidden()


SAID = "Saved as inversion_00001_.inversion.safetensors"  # two lines at the node's own width
SAVED = f"""async address => {{
    const {{ showReport }} = await import(address.replace('/words.js', '/reports.js'))
    app.graph.clear()
    app.canvas.ds.reset()
    const node = LiteGraph.createNode('StyleDiffusionSaveInversion')
    node.pos = [300, 200]
    app.graph.add(node)
    showReport(node, {{ text: ['{SAID}'] }})
}}"""
# How much of a report's height its box leaves out, and how far it reaches below its node.
CUT = """content => {
    const box = content.parentElement
    const { size, widgets } = app.graph._nodes[0]
    const end = widgets.at(-1).y + box.offsetHeight
    return [box.scrollHeight - box.clientHeight, Math.max(0, end - size[1])]
}"""


def test_what_a_node_says_after_a_run_is_shown_whole_where_it_takes_two_lines(
    either: "Window"
) -> None:
    either.page.evaluate(SAVED, words_script(either))
    either.settle()
    said = either.page.get_by_text(SAID)
    assert said.evaluate("content => content.offsetHeight") == 2 * 14
    assert said.evaluate(CUT) == [0, 0]
    either.said_nothing()
