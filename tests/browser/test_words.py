"""The changed words under the controller's targets, what is said of them, and picking them."""

from typing import TYPE_CHECKING, Any

from development import examples
from tests.browser.words import NODE, fill, lines, panel, show, undo, value, values, word, write
from tests.graphs import CONTROL

if TYPE_CHECKING:
    from tests.browser.window import Window


def mistakes(window: "Window") -> list[str]:
    """What is said in red below the lines, each with the number of the line it is below."""
    rows: list[str] = panel(window).locator(".line").evaluate_all("""rows => rows.map((row, i) =>
        [rows.slice(0, i).filter(other => !other.matches('.mistake')).length, row])
        .filter(([, row]) => row.matches('.mistake'))
        .map(([line, row]) => `${line} ${row.textContent}`)""")
    return rows


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
    undo(window)


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
    heights = "panel => [panel, panel.querySelector('.content')].map(e => e.offsetHeight)"
    own, content = panel(demo).evaluate(heights)
    assert own == content and 3 * 16 <= own < 6 * 16
    fill(demo, targets="\n".join(["a cat"] * 16))
    demo.settle()
    own, content = panel(demo).evaluate(heights)
    assert own == 10 * 16 + 8 < content


def test_replace_with_another_number_of_words_is_marked_wrong(demo: "Window") -> None:
    demo.page.evaluate(f"""kind => {{ {NODE}
        node.widgets.find(widget => widget.name === 'mode').value = 'replace' }}""", CONTROL)
    write(demo, "orange cat", "a cat")
    assert lines(demo)[0][0] == "2 words, source 9"
    assert panel(demo).locator("small.wrong").count() == 1


def test_mistakes_are_said_on_their_line_while_one_types(demo: "Window") -> None:
    assert mistakes(demo) == []
    fill(demo, subtract_words="brown")
    assert mistakes(demo) == []
    fill(demo, blend_words="")
    assert [text[:42] for text in mistakes(demo)] == ["0 subtract_words takes away from where the"]
    fill(demo, subtract_words="")
    fill(demo, blend_words="cat; cat, baot", emphasis="dog: 1.5; boat: 1, boat: 2")
    assert mistakes(demo) == [
        "1 emphasis: \u201cdog\u201d is in no edited prompt.",
        "2 blend_words: \u201cbaot\u201d is in no prompt.",
        "2 emphasis: \u201cboat\u201d has two numbers; keep one."]
    fill(demo, blend_words="cat; cat, boat; ;", emphasis="boat: 11", windows="tau_s 0.3")
    assert [text[:31] for text in mistakes(demo)] == [
        "0 blend_words: 4 parts between ", "0 emphasis: \u201c11\u201d of \u201cboat\u201d is n",
        "0 windows: \u201ctau_s 0.3\u201d has no n"]
    fill(demo, blend_words="cat, boat", emphasis="", windows="", targets="a cat\n\na cat")
    assert mistakes(demo) == [
        "0 Line 2 is empty: remove it or write a prompt.",
        "0 blend_words: \u201cboat\u201d is in no prompt.", "2 the same edit as line 1"]
    fill(demo, targets=" ", blend_words="")
    assert lines(demo) == [] and mistakes(demo) == ["0 Write the edited prompt, one edit a line."]
    demo.said_nothing()


def test_a_word_is_put_on_the_list_of_its_line_with_a_click_and_taken_off(demo: "Window") -> None:
    show(demo)
    fill(demo, blend_words="")
    word(demo, 0, "cat").click()
    word(demo, 1, "boat").click()
    word(demo, 1, "cat").click()  # of the source prompt
    assert value(demo, "blend_words") == "cat; boat, cat"
    word(demo, 0, "orange").click(modifiers=["Shift"])
    assert value(demo, "emphasis") == "orange: 1.5;"
    picked = panel(demo).locator("[aria-pressed=true].word").all_inner_texts()
    assert picked == ["orange", "cat", "cat", "boat"]
    undo(demo)
    assert (value(demo, "blend_words"), value(demo, "emphasis")) == ("cat; boat, cat", "")
    word(demo, 0, "cat").click()
    assert value(demo, "blend_words") == "; boat, cat"
    panel(demo).get_by_role("button", name="emphasis").click()
    word(demo, 1, "boat").focus()
    demo.page.keyboard.press("ArrowRight")
    demo.page.keyboard.press("Enter")  # the word behind it: in
    assert (value(demo, "emphasis"), value(demo, "blend_words")) == ("; in: 1.5", "; boat, cat")
    demo.page.keyboard.press("ArrowLeft")
    demo.page.keyboard.press("Shift+Space")
    assert value(demo, "blend_words") == "; cat"
    run_by_keyboard(demo)
    assert (value(demo, "emphasis"), value(demo, "blend_words")) == ("; in: 1.5", "; cat")
    demo.said_nothing()


def run_by_keyboard(window: "Window") -> None:
    """Press Ctrl+Enter where the focus is and wait until the page asks for a run, which none is."""
    window.page.evaluate("() => { app.queuePrompt = async () => { app.asked = true } }")
    try:
        window.page.keyboard.press("Control+Enter")
        window.until(lambda: window.page.evaluate("() => app.asked === true"), seconds=5)
    finally:
        window.page.evaluate("() => { delete app.queuePrompt; delete app.asked }")


def test_a_click_writes_into_the_box_that_feeds_an_input_and_a_copy_keeps_all(
    demo: "Window"
) -> None:
    show(demo)
    demo.page.evaluate(f"""kind => {{ {NODE}
        const text = LiteGraph.createNode('PrimitiveString')
        app.graph.add(text)
        text.widgets[0].value = 'boat'
        text.connect(0, node, node.inputs.findIndex(input => input.name === 'blend_words')) }}""",
        CONTROL)
    demo.settle()
    word(demo, 0, "cat").click()
    written: str = demo.page.evaluate(
        "() => app.graph._nodes.find(node => node.type === 'PrimitiveString').widgets[0].value")
    assert written == "boat, cat; boat"
    copied: list[Any] = demo.page.evaluate(f"""kind => {{ {NODE}
        return node.clone().serialize().widgets_values }}""", CONTROL)
    assert copied == values(demo.graph(), CONTROL)
    demo.said_nothing()


def choose_preset(window: "Window", label: str) -> None:
    """Open the preset's list with the mouse and choose, in either kind of node."""
    box = window.page.get_by_role("combobox", name="Taus for")
    if box.count():
        box.click()
        window.page.get_by_role("option", name=label).click()
    else:
        window.page.mouse.click(*window.page.evaluate(f"""kind => {{ {NODE}
            const {{ y }} = node.widgets.find(widget => widget.name === 'tau_preset')
            const place = [node.pos[0] + node.size[0] / 2, node.pos[1] + y + 10]
            const [left, top] = app.canvas.ds.convertOffsetToCanvas(place)
            const edge = app.canvas.canvas.getBoundingClientRect()
            return [left + edge.left, top + edge.top] }}""", CONTROL))
        window.page.locator(".litecontextmenu .litemenu-entry").get_by_text(label).click()
    window.page.wait_for_timeout(300)


def test_a_preset_sets_the_four_taus_and_one_undo_takes_it_back(demo: "Window") -> None:
    show(demo)
    taus = ["tau_v", "tau_c", "tau_s", "tau_u"]
    assert value(demo, "tau_preset") == "own values"
    choose_preset(demo, "another style")
    assert [value(demo, tau) for tau in taus] == [0.2, 0.6, 0.8, 0]
    assert value(demo, "tau_preset") == "another style"
    undo(demo)
    assert [value(demo, tau) for tau in taus] == [0.8, 0.4, 0.8, 0]
    assert value(demo, "tau_preset") == "own values"
    demo.said_nothing()


def test_a_numbered_list_and_a_pasted_prompt_are_shown_as_they_are_read(typed: "Window") -> None:
    write(typed, "orange cat", "1. a painting of a green cat in the city")
    assert lines(typed) == [("replace", ["brown"], ["green"])]
    typed.texts("1. a painting").press_sequentially("\n2. a painting of a brown dog in the city")
    assert lines(typed) == [("replace", ["brown"], ["green"]), ("replace", ["cat"], ["dog"])]
    write(typed, "a painting of a brown cat in the city", "a painting of a brown cat,\nin the city")
    write(typed, "1. a painting", "a painting of a brown dog,\nin the city")
    assert lines(typed) == [("replace", ["cat,"], ["dog,"])]
    typed.said_nothing()
