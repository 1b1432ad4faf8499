"""Which source prompt the changed words are told from, and what of all that a graph keeps."""

import random
from typing import TYPE_CHECKING, Any

import pytest

from demo import scenes
from development import examples
from tests import golden
from tests.browser.words import NODE, fill, lines, panel, values, words_script, write
from tests.graphs import CONTROL, INVERT

if TYPE_CHECKING:
    from tests.browser.window import Window

TABLE = golden.facts("words")


def test_another_source_prompt_counts_at_once(typed: "Window") -> None:
    write(typed, "a painting of a brown cat in the city", "a painting of an orange cat in the city")
    assert lines(typed)[0] == ("no change", [], [])
    assert panel(typed).locator("small.wrong").all_inner_texts() == ["no change"]
    fill(typed, emphasis="cat: 1.5; ")
    assert lines(typed)[0] == ("replace", [], []), "a word that is louder is an edit"
    typed.said_nothing()


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


SOURCE = f"""async address => {{
    const {{ sourcePrompt }} = await import(address.replace('/words.js', '/reading.js'))
    return sourcePrompt(app.graph._nodes.find(node => node.type === '{CONTROL}')) }}"""
DRAW = f"""([kind, values]) => {{ {NODE}
    for (const [name, value] of Object.entries(values)) {{
        const widget = node.widgets.find(widget => widget.name === name)
        widget.value = value
        widget.callback?.(value)
    }} }}"""


def test_the_caption_of_another_demo_scene_is_the_source_prompt_at_once(demo: "Window") -> None:
    scene = "StyleDiffusionDemoScene"
    demo.page.evaluate(DRAW, [scene, {"colour": "orange"}])
    assert lines(demo)[0] == ("no change", [], [])
    assert lines(demo)[1] == ("replace", ["an", "orange", "cat"], ["a", "brown", "boat"])
    for style, colour, name, place in zip(scenes.STYLES, scenes.COLOURS, scenes.OBJECTS,
                                          scenes.PLACES, strict=False):
        demo.page.evaluate(
            DRAW, [scene, {"style": style, "colour": colour, "object": name, "place": place}])
        drawn = scenes.scene_of((name, colour, place), style, random.Random(0))
        assert demo.page.evaluate(SOURCE, words_script(demo)) == scenes.caption(drawn)
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
    demo.until(lambda: lines(demo) == [])
    demo.said_nothing()


def test_a_controller_goes_into_a_subgraph_and_out_again(demo: "Window") -> None:
    before, links = lines(demo), demo.graph()["links"]
    demo.page.evaluate("() => { app.graph.convertToSubgraph(new Set(app.graph._nodes)) }")
    demo.settle()
    assert demo.page.evaluate("() => app.graph._nodes.length") == 1
    demo.page.evaluate("() => app.canvas.setGraph(app.graph._nodes[0].subgraph)")
    demo.settle()
    assert lines(demo) == before
    demo.page.evaluate("() => app.canvas.setGraph(app.canvas.graph.rootGraph)")
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


def test_a_click_asks_for_a_words_pieces_and_for_none_of_a_choice(workbench: "Window") -> None:
    asked = {"cat,": ["cat"], "cat,dog": ["cat", "dog"], "--": [], "{red|blue}": [],
             "{a": [], "very": [], "{dark|light}": [], "red|light": [], "blue}": [], "}": [],
             "boat": ["boat"]}
    found = workbench.page.evaluate("""async ([address, words]) => {
        const { piecesOf } = await import(address.replace('/words.js', '/notation.js'))
        return words.map((_, i) => piecesOf(words, i)) }""", [words_script(workbench), list(asked)])
    assert found == list(asked.values())


@pytest.mark.parametrize(("rule", "call"), [
    ("words", "wordsOf(row[0])"), ("bare", "bare(row[0])"), ("targets", "targetsOf(...row)"),
    ("positions", "placesOf(row[1], wordsOf(row[0])).length > 0"),
])
def test_the_page_reads_words_and_targets_as_the_node_does(
    workbench: "Window", rule: str, call: str
) -> None:
    """The table is the one that the node's Python is tested with."""
    found = workbench.page.evaluate(f"""async ([address, rows]) => {{
        const {{ bare, targetsOf, wordsOf }} = await import(address)
        const {{ placesOf }} = await import(address.replace('/words.js', '/notation.js'))
        return rows.map(row => {call}) }}""", [words_script(workbench), TABLE[rule]])
    expected = [row[-1] for row in TABLE[rule]]
    assert found == (list(map(bool, expected)) if rule == "positions" else expected)
