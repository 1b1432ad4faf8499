"""The words under the controller's targets, as tests read, write and click them."""

from typing import TYPE_CHECKING, Any

from tests.graphs import CONTROL

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.browser.window import Window

NODE = "const node = app.graph._nodes.find(node => node.type === kind)"


def panel(window: "Window") -> "Locator":
    return window.page.locator(".stylediffusion-words")


def lines(window: "Window") -> list[tuple[str, list[str], list[str]]]:
    """(label, struck words, highlighted words) of every line."""
    rows = panel(window).locator(".line:not(.mistake)")
    return [(row.locator("small").inner_text(), row.locator("del").all_inner_texts(),
             row.locator("ins").all_inner_texts()) for row in rows.all()]


def value(window: "Window", name: str) -> Any:
    return window.page.evaluate(f"([kind, name]) => {{ {NODE}; return node.widgets.find("
                                "widget => widget.name === name).value }", [CONTROL, name])


def fill(window: "Window", **values: str) -> None:
    """Give the controller's boxes values, as the page does when a person types them."""
    window.page.evaluate(f"""([kind, values]) => {{ {NODE}
        for (const [name, value] of Object.entries(values)) {{
            const widget = node.widgets.find(widget => widget.name === name)
            widget.value = value
            widget.callback?.(value)
        }} }}""", [CONTROL, values])


def word(window: "Window", line: int, text: str) -> "Locator":
    row = panel(window).locator(".line:not(.mistake)").nth(line)
    return row.locator(".word").get_by_text(text, exact=True)


def show(window: "Window") -> None:
    """Bring the controller into view, large enough to be worked with."""
    window.page.evaluate(f"""kind => {{ {NODE}
        Object.assign(app.canvas.ds, {{ scale: 1, offset: [300 - node.pos[0], 40 - node.pos[1]] }})
        app.canvas.setDirty(true, true) }}""", CONTROL)
    window.page.wait_for_timeout(300)


def undo(window: "Window") -> None:
    window.page.evaluate("() => document.activeElement.blur()")
    window.page.keyboard.press("Control+z")
    window.settle()


def write(window: "Window", before: str, text: str) -> None:
    box = window.texts(before)
    box.click()
    box.press("Control+a")
    box.press_sequentially(text)


def values(graph: dict[str, Any], kind: str) -> list[Any]:
    (found,) = (node["widgets_values"] for node in graph["nodes"] if node["type"] == kind)
    return list(found)


def words_script(window: "Window") -> str:
    """The address of the script as the page has loaded it."""
    addresses: list[str] = window.page.evaluate(
        "() => performance.getEntriesByType('resource').map(entry => entry.name)")
    return next(found for found in addresses if found.split("?")[0].endswith("/js/words.js"))
