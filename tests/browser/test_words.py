"""The changed words under the controller's targets."""

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Locator

from development import examples
from tests import golden
from tests.graphs import CONTROL, INVERT

if TYPE_CHECKING:
    from tests.browser.window import Window

TABLE = golden.facts("words")
NODE = "const node = app.graph._nodes.find(node => node.type === kind)"


@pytest.fixture
def demo(either: "Window") -> "Window":
    either.load(examples.workflow("Demo"))
    return either


def panel(window: "Window") -> Locator:
    return window.page.locator(".stylediffusion-words")


def lines(window: "Window") -> list[tuple[str, list[str], list[str]]]:
    """(label, struck words, highlighted words) of every line."""
    rows = panel(window).locator("> div")
    return [(row.locator("small").inner_text(), row.locator("del").all_inner_texts(),
             row.locator("ins").all_inner_texts()) for row in rows.all()]


def write(window: "Window", before: str, text: str) -> None:
    box = window.texts(before)
    box.click()
    box.press("Control+a")
    box.press_sequentially(text)


def test_each_line_shows_what_it_strikes_and_what_it_adds(demo: "Window") -> None:
    assert lines(demo) == [("replace", ["a", "brown"], ["an", "orange"]),
                           ("replace", ["cat"], ["boat"])]
    assert "painting of" in panel(demo).inner_text()
    demo.said_nothing()


def test_four_lines_all_fit(demo: "Window") -> None:
    demo.load(examples.workflow("Several edits at once"))
    assert len(lines(demo)) == 4
    heights = panel(demo).evaluate("panel => [panel.scrollHeight, panel.clientHeight]")
    assert heights[0] <= heights[1]


def test_a_word_shows_while_it_is_typed(demo: "Window") -> None:
    write(demo, "orange cat", "a painting of a green ca")
    assert lines(demo) == [("refine", ["brown", "cat", "in", "the", "city"], ["green", "ca"])]
    demo.texts("green ca").press_sequentially("t in the city\n\na painting of a big brown cat in")
    assert lines(demo) == [("replace", ["brown"], ["green"]),
                           ("refine", ["the", "city"], ["big"])]
    demo.texts("green cat").press_sequentially(" The (city:1.3),")
    assert lines(demo)[1] == ("refine", [], ["big"])
    demo.said_nothing()


def moved_and_undone(window: "Window") -> None:
    window.page.evaluate(f"""kind => {{ {NODE}
        const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
        tracker.captureCanvasState()
        node.pos = [node.pos[0] + 40, node.pos[1] + 40]
        tracker.captureCanvasState() }}""", CONTROL)
    window.page.evaluate("() => document.activeElement.blur()")
    window.page.keyboard.press("Control+z")
    window.settle()


def test_after_an_undo_the_words_are_shown_and_follow_what_is_written(demo: "Window") -> None:
    before, graph = lines(demo), demo.graph()
    moved_and_undone(demo)
    assert [node["pos"] for node in demo.graph()["nodes"]] == [
        node["pos"] for node in graph["nodes"]]
    assert panel(demo).is_visible() and lines(demo) == before
    write(demo, "orange cat", "a painting of a green cat in the city")
    assert lines(demo) == [("replace", ["brown"], ["green"])]
    moved_and_undone(demo)
    assert lines(demo) == [("replace", ["brown"], ["green"])]
    demo.said_nothing()


def test_the_panel_is_as_high_as_its_lines_in_a_node_that_has_more_room(demo: "Window") -> None:
    demo.page.evaluate(f"kind => {{ {NODE}; node.setSize([node.size[0], node.size[1] + 200]) }}",
                       CONTROL)
    demo.settle()
    height, scale = panel(demo).evaluate(
        "panel => [panel.getBoundingClientRect().height, app.canvas.ds.scale]")
    assert height / scale == pytest.approx(2 * 16 + 4, abs=1)
    write(demo, "orange cat", "\n".join(["a cat"] * 8))
    demo.settle()
    height = panel(demo).evaluate("panel => panel.getBoundingClientRect().height")
    assert height / scale == pytest.approx(6 * 16 + 4, abs=1)


def test_another_source_prompt_counts_at_once(demo: "Window") -> None:
    write(demo, "a painting of a brown cat in the city", "a painting of an orange cat in the city")
    assert lines(demo)[0] == ("replace", [], [])
    assert "no change" in panel(demo).inner_text()
    demo.said_nothing()


def test_replace_with_another_number_of_words_is_marked_wrong(demo: "Window") -> None:
    demo.page.evaluate(f"""kind => {{ {NODE}
        node.widgets.find(widget => widget.name === 'mode').value = 'replace' }}""", CONTROL)
    write(demo, "orange cat", "a cat")
    assert lines(demo)[0][0] == "2 words, source 9"
    assert panel(demo).locator("small.wrong").count() == 1


def test_without_a_trajectory_and_in_a_collapsed_node_nothing_shows(demo: "Window") -> None:
    shown = panel(demo)
    assert shown.is_visible()
    demo.page.evaluate(f"kind => {{ {NODE}; node.collapse() }}", CONTROL)
    demo.settle()
    assert not shown.is_visible()
    demo.page.evaluate(f"kind => {{ {NODE}; node.collapse() }}", CONTROL)
    demo.settle()
    assert shown.is_visible()
    demo.page.evaluate(f"""kind => {{ {NODE}
        node.disconnectInput(node.inputs.findIndex(i => i.name === 'trajectory')) }}""", CONTROL)
    demo.settle()
    assert not shown.is_visible() and lines(demo) == []
    demo.said_nothing()


def test_reroutes_and_a_prompt_from_another_node_are_followed(demo: "Window") -> None:
    demo.page.evaluate("""([invert, control]) => {
        const [from, to] = [invert, control].map(
            kind => app.graph._nodes.find(node => node.type === kind))
        const slot = (node, name) => node.inputs.findIndex(input => input.name === name)
        const reroute = LiteGraph.createNode('Reroute')
        const text = LiteGraph.createNode('PrimitiveString')
        app.graph.add(reroute)
        app.graph.add(text)
        text.widgets[0].value = 'a painting of an orange dog in the city'
        text.connect(0, from, slot(from, 'prompt'))
        from.connect(0, reroute, 0)
        reroute.connect(0, to, slot(to, 'trajectory'))
    }""", [INVERT, CONTROL])
    demo.settle()
    assert lines(demo)[0] == ("replace", ["dog"], ["cat"])
    demo.said_nothing()


def test_texts_that_other_nodes_make_show_nothing_rather_than_something_false(
    demo: "Window"
) -> None:
    demo.page.evaluate("""kind => {
        const node = app.graph._nodes.find(node => node.type === kind)
        const text = LiteGraph.createNode('StringConcatenate')
        app.graph.add(text)
        text.widgets[0].value = 'a painting of an'
        text.connect(0, node, node.inputs.findIndex(input => input.name === 'prompt'))
    }""", INVERT)
    demo.texts("orange cat").press_sequentially(" ")
    demo.settle()
    assert lines(demo) == []
    demo.said_nothing()


def test_a_controller_goes_into_a_subgraph_and_out_again(demo: "Window") -> None:
    before, links = lines(demo), demo.graph()["links"]
    demo.page.evaluate("() => { app.graph.convertToSubgraph(new Set(app.graph._nodes)) }")
    demo.settle()
    assert demo.page.evaluate("() => app.graph._nodes.length") == 1
    demo.page.evaluate("() => { app.graph.unpackSubgraph(app.graph._nodes[0]) }")
    demo.settle()
    assert lines(demo) == before and len(demo.graph()["links"]) == len(links)
    write(demo, "orange cat", "a painting of a green cat in the city")
    assert lines(demo) == [("replace", ["brown"], ["green"])]
    demo.said_nothing()


def test_a_saved_graph_is_whole_beside_an_unsaved_widget_of_another_extension(
    demo: "Window"
) -> None:
    demo.page.evaluate(f"""kind => {{ {NODE}
        node.addWidget('button', 'theirs', null, () => {{}}).serialize = false }}""", CONTROL)
    assert values(demo.graph(), CONTROL) == values(examples.workflow("Demo"), CONTROL)
    demo.said_nothing()


def test_neither_a_saved_graph_nor_a_prompt_knows_of_the_panel(demo: "Window") -> None:
    shipped = values(examples.workflow("Demo"), CONTROL)
    assert values(demo.graph(), CONTROL) == shipped
    demo.load(demo.graph())
    assert values(demo.graph(), CONTROL) == shipped
    sent: dict[str, Any] = demo.page.evaluate("async () => (await app.graphToPrompt()).output")
    (inputs,) = (node["inputs"] for node in sent.values() if node["class_type"] == CONTROL)
    schema = demo.server.object_info()[CONTROL]["input"]
    assert inputs.keys() <= {*schema["required"], *schema["optional"]}
    assert inputs["tau_s"] == 0.8 and inputs["mode"] == "auto"
    demo.said_nothing()


def values(graph: dict[str, Any], kind: str) -> list[Any]:
    (found,) = (node["widgets_values"] for node in graph["nodes"] if node["type"] == kind)
    return list(found)


@pytest.mark.parametrize(("rule", "call"), [
    ("words", "wordsOf(row[0])"), ("bare", "bare(row[0])"), ("targets", "targetsOf(...row)"),
])
def test_the_page_reads_words_and_targets_as_the_node_does(
    workbench: "Window", rule: str, call: str
) -> None:
    """The table is the one that the node's Python is tested with."""
    found = workbench.page.evaluate(f"""async ([address, rows]) => {{
        const {{ bare, targetsOf, wordsOf }} = await import(address)
        return rows.map(row => {call}) }}""", [words_script(workbench), TABLE[rule]])
    assert found == [row[-1] for row in TABLE[rule]]


def words_script(window: "Window") -> str:
    """The address of the script as the page has loaded it."""
    addresses: list[str] = window.page.evaluate(
        "() => performance.getEntriesByType('resource').map(entry => entry.name)")
    return next(found for found in addresses if found.split("?")[0].endswith("/js/words.js"))


def test_a_numbered_list_and_a_pasted_prompt_are_shown_as_they_are_read(demo: "Window") -> None:
    write(demo, "orange cat", "1. a painting of a green cat in the city")
    assert lines(demo) == [("replace", ["brown"], ["green"])]
    demo.texts("1. a painting").press_sequentially("\n2. a painting of a brown dog in the city")
    assert lines(demo) == [("replace", ["brown"], ["green"]), ("replace", ["cat"], ["dog"])]
    write(demo, "a painting of a brown cat in the city", "a painting of a brown cat,\nin the city")
    write(demo, "1. a painting", "a painting of a brown dog,\nin the city")
    assert lines(demo) == [("replace", ["cat,"], ["dog,"])]
    demo.said_nothing()
