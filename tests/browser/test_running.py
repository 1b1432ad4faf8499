"""Runs by the page's own buttons: progress, previews, pictures, interrupting, editing again."""

import io
import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from development import examples
from development.server import COLOUR
from tests.graphs import CONTROL, INVERT, LEARN, PREFIX, SAMPLE

if TYPE_CHECKING:
    from tests.browser.window import Window

TROUBLE = re.compile(r"\[(WARNING|ERROR|CRITICAL)\]|\w*Warning:|Traceback")
SHOWN = "kind => app.graph._nodes.find(node => node.type === kind).imgs?.map(i => i.naturalWidth)"


def open_short(window: "Window", name: str = "Demo") -> None:
    """A graph at five steps, of which nothing has run yet."""
    graph = examples.workflow(name)
    for node in graph["nodes"]:
        if node["type"] == INVERT:
            node["widgets_values"][1] = 5
        if node["type"] == "StyleDiffusionTauSweep":
            node["widgets_values"][1] = node["widgets_values"][3] = "0, 0.6"
    window.server.forget()
    window.open()
    window.load(graph)


def id_of(window: "Window", kind: str) -> str:
    (found,) = (str(node["id"]) for node in window.graph()["nodes"] if node["type"] == kind)
    return found


def ran(window: "Window") -> set[str]:
    """The types of the nodes that were executed since Run was pressed."""
    kinds = {str(node["id"]): node["type"] for node in window.graph()["nodes"]}
    return {kinds[message["node"]] for message in window.of("executing") if message["node"]}


def saved_widths(window: "Window") -> list[int]:
    """How wide the pictures are that Save Image has saved since Run was pressed."""
    outputs = {data["node"]: data["output"] for data in window.of("executed")}
    saved = window.server.images({"outputs": outputs})[id_of(window, "SaveImage")]
    return [Image.open(io.BytesIO(data)).width for data in saved]


def is_picture(data: bytes) -> bool:
    return len(set(Image.open(io.BytesIO(data)).convert("L").tobytes())) > 1


def test_the_demo_runs_with_progress_previews_and_three_pictures(window: "Window") -> None:
    window.open("Demo")
    window.run()
    learning, sampling = id_of(window, LEARN), id_of(window, SAMPLE)
    steps = [(data["node"], data["value"]) for data in window.of("progress")]
    for node in (learning, sampling):
        values = [value for other, value in steps if other == node]
        assert len(set(values)) > 10 and values == sorted(values)
        shown = [data for other, data in window.previews if other == node]
        assert len(shown) > 5 and all(map(is_picture, shown))
    assert saved_widths(window) == [128, 128, 128]
    texts = window.page.evaluate(
        "id => app.graph.getNodeById(id).widgets.map(widget => String(widget.value))", learning)
    assert any(re.fullmatch(r"learnt in \d+:\d\d", text) for text in texts)
    assert window.page.evaluate(SHOWN, LEARN)
    window.said_nothing()


def test_learning_is_interrupted_by_the_button_and_finishes_the_next_time(
    window: "Window",
) -> None:
    open_short(window)
    learning = id_of(window, LEARN)
    window.press_run()
    window.until(lambda: any(data["node"] == learning and data["value"] >= 1
                             for data in window.of("progress")))
    window.page.get_by_role("button", name="Cancel current run").click()
    window.until(lambda: window.of("execution_interrupted", "execution_success"), seconds=30)
    assert [data["node_id"] for data in window.of("execution_interrupted")] == [learning]
    window.run()
    assert LEARN in ran(window) and INVERT not in ran(window)
    assert saved_widths(window) == [128, 128, 128]
    window.said_nothing()


def test_another_word_in_the_targets_runs_only_the_edit_again(window: "Window") -> None:
    open_short(window)
    window.run()
    assert {INVERT, LEARN, CONTROL, SAMPLE} <= ran(window)
    box = window.texts("orange cat")
    box.click()
    start = box.input_value().index("brown")
    box.evaluate("(box, [start, end]) => box.setSelectionRange(start, end)",
                 [start, start + len("brown")])
    box.press_sequentially("pink")
    assert box.input_value().endswith("\na painting of a pink boat in the city")
    window.run()
    assert ran(window) == {CONTROL, SAMPLE, "VAEDecode", "SaveImage", "ImageFromBatch",
                           "ImageCompare", PREFIX + "KeepPixels", PREFIX + "ComparisonSheet"}
    assert saved_widths(window) == [128, 128, 128]
    window.said_nothing()


@pytest.mark.parametrize("name, kind, width", [
    ("Sweep two taus", "StyleDiffusionTauSweep", 560),
    ("See where words look", "StyleDiffusionHeatmaps", 832)])
def test_a_node_with_a_sheet_shows_it_and_no_preview_in_its_place(
    window: "Window", name: str, kind: str, width: int
) -> None:
    open_short(window, name)
    window.run()
    nodes = [node for node in window.graph()["nodes"] if node["type"] == kind]
    shown = "id => app.graph.getNodeById(id).imgs?.[0].naturalWidth ?? 0"
    window.until(lambda: all(
        window.page.evaluate(shown, node["id"]) >= width for node in nodes), seconds=20)
    window.said_nothing()


def test_the_runs_left_no_warning_or_error_in_the_servers_log(window: "Window") -> None:
    lines = COLOUR.sub("", window.server.log.read_text(encoding="utf-8")).splitlines()
    assert any("Prompt executed" in line for line in lines)
    assert [line for line in lines if TROUBLE.search(line)] == []
