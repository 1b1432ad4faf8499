"""Every example graph, opened from the Templates dialog."""

from typing import TYPE_CHECKING, Any

import pytest

from development import examples, graphs
from development.examples import EXAMPLES
from tests.graphs import PREFIX

if TYPE_CHECKING:
    from tests.browser.window import Window

UNKNOWN = """() => app.graph._nodes.map(node => node.type)
    .filter(type => !(type in LiteGraph.registered_node_types))"""
IN_RED = "() => app.graph._nodes.filter(node => node.has_errors).map(node => node.type)"
pytestmark = pytest.mark.usefixtures("photo")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_template_opens_whole_and_both_its_files_are_what_the_page_would_save(
    workbench: "Window", name: str
) -> None:
    """Otherwise `python3 dev.py graphs` saves them anew."""
    workbench.fetch(name)
    workbench.settle()
    graph = examples.workflow(name)
    assert workbench.page.evaluate(UNKNOWN) == []
    assert graphs.saved(workbench.page, graph) == (graph, examples.prompt(name))
    holders = [node["type"] for node in graph["nodes"] if node["properties"].get("models")]
    own = [node["type"] for node in graph["nodes"] if node["type"] == "LoraLoader"]
    assert sorted(workbench.page.evaluate(IN_RED)) == sorted(holders + own)
    workbench.said_nothing()


@pytest.mark.parametrize("name", list(filter(examples.models, EXAMPLES)))
def test_the_page_offers_the_files_a_graph_needs(workbench: "Window", name: str) -> None:
    workbench.fetch(name)
    workbench.settle()
    page = workbench.page
    page.get_by_role("button", name="View details").click()
    for model in examples.models(name):
        page.get_by_text(model["name"], exact=True).wait_for()
    offers = page.get_by_role("button").get_by_text("Download", exact=True)
    workbench.until(lambda: offers.count() == len(examples.models(name)))
    page.get_by_role("button", name="Toggle properties panel").click()
    workbench.said_nothing()


KEEP = PREFIX + "KeepPixels"
BYPASSED = "node => { node.mode = 4 }"
DELETED = "node => { app.canvas.selectNode(node); app.canvas.deleteSelected() }"


@pytest.mark.parametrize("left_out", [BYPASSED, DELETED], ids=["bypassed", "deleted"])
def test_where_unedited_pixels_are_not_kept_the_edits_are_shown_and_saved(
    workbench: "Window", left_out: str
) -> None:
    workbench.fetch("Edit a photo")
    workbench.settle()
    shipped = examples.prompt("Edit a photo")
    keep = examples.node_of(shipped, KEEP)
    sent: dict[str, Any] = workbench.page.evaluate(f"""async kind => {{
        ({left_out})(app.graph._nodes.find(node => node.type === kind))
        return (await app.graphToPrompt()).output }}""", KEEP)
    after = [(key, name) for key, node in shipped.items() for name, value in node["inputs"].items()
             if value == [keep, 0]]
    assert len(after) == 2 and keep not in sent
    edits = shipped[keep]["inputs"]["edits"]
    assert [sent[key]["inputs"][name] for key, name in after] == [edits, edits]
    workbench.said_nothing()
