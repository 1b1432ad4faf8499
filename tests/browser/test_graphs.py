"""Every example graph, opened from the Templates dialog."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from development.examples import EXAMPLES, FOLDER

if TYPE_CHECKING:
    from tests.browser.window import Window

UNKNOWN = """() => app.graph._nodes.map(node => node.type)
    .filter(type => !(type in LiteGraph.registered_node_types))"""
IN_RED = "() => app.graph._nodes.filter(node => node.has_errors).map(node => node.type)"
pytestmark = pytest.mark.usefixtures("photo")


def shipped(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def missing(name: str) -> list[dict[str, str]]:
    """The files that a graph names with an address."""
    return [model for node in shipped(name)["nodes"]
            for model in node["properties"].get("models", [])]


def values(graph: dict[str, Any]) -> dict[int, list[Any]]:
    """What the widgets hold; without what the page puts behind Load Image's for its button."""
    return {node["id"]: node.get("widgets_values", [])[:1 if node["type"] == "LoadImage" else None]
            for node in graph["nodes"]}


def links(graph: dict[str, Any]) -> set[tuple[int, int, int, str]]:
    """(from, output, to, input's name): the page sorts inputs with widgets behind the others."""
    inputs = {node["id"]: node["inputs"] for node in graph["nodes"]}
    return {(link[1], link[2], link[3], inputs[link[3]][link[4]]["name"])
            for link in graph["links"]}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_template_opens_whole_and_would_be_saved_as_it_was(
    workbench: "Window", name: str
) -> None:
    workbench.fetch(name)
    workbench.settle()
    graph, opened = shipped(name), workbench.graph()
    assert workbench.page.evaluate(UNKNOWN) == []
    assert values(opened) == values(graph)
    assert links(opened) == links(graph)
    holders = [node["type"] for node in graph["nodes"] if node["properties"].get("models")]
    own = [node["type"] for node in graph["nodes"] if node["type"] == "LoraLoader"]
    assert sorted(workbench.page.evaluate(IN_RED)) == sorted(holders + own)
    workbench.said_nothing()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if missing(name)])
def test_the_page_offers_the_files_a_graph_needs(workbench: "Window", name: str) -> None:
    workbench.fetch(name)
    workbench.settle()
    page = workbench.page
    page.get_by_role("button", name="View details").click()
    for model in missing(name):
        page.get_by_text(model["name"], exact=True).wait_for()
    offers = page.get_by_role("button").get_by_text("Download", exact=True)
    workbench.until(lambda: offers.count() == len(missing(name)))
    page.get_by_role("button", name="Toggle properties panel").click()
    workbench.said_nothing()
