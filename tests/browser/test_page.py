"""The page with the pack in it: start, templates, help, languages."""

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from development.examples import EXAMPLES
from development.places import PACK_NAME, ROOT
from development.server import COLOUR, Server

if TYPE_CHECKING:
    from tests.browser.window import Window

TROUBLE = re.compile(r"\[(WARNING|ERROR|CRITICAL)\]|\w*Warning:|^Traceback|IMPORT FAILED")
HELP = ROOT / "web" / "docs"


def test_the_server_starts_without_a_warning_or_an_error(server: Server) -> None:
    lines = COLOUR.sub("", server.log.read_text(encoding="utf-8")).splitlines()
    assert any("To see the GUI" in line for line in lines)
    assert [line for line in lines if TROUBLE.search(line)] == []


def test_the_page_opens_without_an_error(window: "Window") -> None:
    window.open()
    assert window.page.get_by_test_id("queue-button").is_visible()
    window.said_nothing()


def test_the_templates_dialog_shows_the_packs_graphs_with_their_thumbnails(
    window: "Window",
) -> None:
    window.open()
    window.page.get_by_role("button", name="Templates", exact=True).click()
    dialog = window.page.get_by_role("dialog")
    dialog.get_by_text(PACK_NAME, exact=True).click()
    dialog.get_by_test_id("template-workflow-Demo").wait_for()
    cards = dialog.locator("[data-testid^=template-workflow-]")
    names = cards.evaluate_all("cards => cards.map(card => card.dataset.testid)")
    assert sorted(names) == sorted(f"template-workflow-{name}" for name in EXAMPLES)
    for name in names:
        card = dialog.get_by_test_id(name)
        card.scroll_into_view_if_needed()
        card.locator("img").first.wait_for()
    window.until(lambda: cards.locator("img").evaluate_all("all => all.every(i => i.naturalWidth)"))
    dialog.get_by_test_id("template-workflow-Demo").click()
    dialog.wait_for(state="hidden")
    window.page.wait_for_function(
        "() => app.graph._nodes.some(node => node.type === 'StyleDiffusionSample')")
    window.said_nothing()


# What reaches past the right edge of the help: the words of a table, a file's name, a picture.
TOO_WIDE = """shown => {
    const edge = shown.getBoundingClientRect().right + 1
    return [...shown.querySelectorAll('*')].filter(part =>
        part.getBoundingClientRect().right > edge).map(part => part.outerHTML.slice(0, 80))
}"""


@pytest.mark.parametrize("kind", sorted(path.stem for path in HELP.glob("*.md")))
def test_the_help_panel_shows_a_nodes_page_and_its_pictures_within_its_width(
    workbench: "Window", kind: str
) -> None:
    page = workbench.page
    page.evaluate("""kind => {
        app.graph.clear()
        const node = LiteGraph.createNode(kind)
        node.pos = [300, 200]
        app.graph.add(node)
        app.canvas.ds.reset()
        app.canvas.selectNode(node)
    }""", kind)
    page.get_by_test_id("info-button").click()
    shown = page.locator(".node-help-content")
    first = (HELP / f"{kind}.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    shown.get_by_role("heading", name=first, exact=True).wait_for()
    pictures = shown.locator("img")
    workbench.until(lambda: pictures.evaluate_all("all => all.every(i => i.naturalWidth > 0)"))
    assert shown.evaluate("shown => shown.clientWidth") < 320  # as a person has it at first
    assert shown.evaluate(TOO_WIDE) == []
    assert "dev.py" not in shown.inner_text()  # no entrance for people who use the pack
    page.get_by_role("button", name="Toggle properties panel").click()
    workbench.said_nothing()


def test_a_korean_page_shows_the_nodes_in_korean(window: "Window") -> None:
    window.open()
    change = "value => app.extensionManager.setting.set('Comfy.Locale', value)"
    window.page.evaluate(change, "ko")
    try:
        window.open("Demo")
        shown: list[Any] = window.page.evaluate(
            "() => app.graph._nodes.map(node => [node.type, node.title, node.widgets.map("
            "widget => [widget.name, widget.label])])")
    finally:
        window.page.evaluate(change, "en")
    texts = json.loads((ROOT / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
    ours = [found for found in shown if found[0] in texts]
    assert len(ours) == 8
    for kind, title, widgets in ours:
        assert title == texts[kind]["display_name"]
        named = {name: text["name"] for name, text in texts[kind].get("inputs", {}).items()
                 if "name" in text}
        assert {name: label for name, label in widgets if name in named} == {
            name: named[name] for name, _ in widgets if name in named}
    window.said_nothing()
