"""What every node shows: ids that are promises, tooltips, a help page, short code."""

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from stylediffusion_pack import comfy_entrypoint
from stylediffusion_pack.stylediffusion.host.edit import controller

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {
    "StyleDiffusionDDIMInvert", "StyleDiffusionLearnValueEmbedding",
    "StyleDiffusionP2PlusController", "StyleDiffusionSample", "StyleDiffusionSaveInversion",
    "StyleDiffusionLoadInversion", "StyleDiffusionLoadDemoModel", "StyleDiffusionDemoScene",
    "StyleDiffusionLoadCLIPVision", "StyleDiffusionHeatmaps", "StyleDiffusionComparisonSheet",
    "StyleDiffusionTauSweep", "StyleDiffusionGenerate", "StyleDiffusionP2PlusGuider",
    "StyleDiffusionLearnPromptEmbedding", "StyleDiffusionKeepPixels",
    "StyleDiffusionEditMetrics",
}


async def _nodes() -> list[Any]:
    return await (await comfy_entrypoint()).get_node_list()


NODES = asyncio.run(_nodes())
every_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)


def test_the_node_ids_are_those_that_saved_graphs_hold() -> None:
    assert {node.define_schema().node_id for node in NODES} == PROMISED


@every_node
def test_every_input_and_output_has_a_tooltip(node: Any) -> None:
    schema = node.define_schema()
    for part in (*schema.inputs, *schema.outputs):
        assert part.tooltip, f"{schema.node_id}: {part.id}"
    assert schema.description and schema.search_aliases


def _page(node: Any) -> str:
    path = ROOT / "web" / "docs" / f"{node.define_schema().node_id}.md"
    return path.read_text(encoding="utf-8")


def _row_names(page: str) -> set[str]:
    """What the rows of a page's tables and lists are about: the names in front."""
    cells = re.findall(r"^\| ([^|]+) \||^- \*\*([^*]+)\*\*:", page, re.MULTILINE)
    return {name for pair in cells for cell in pair for name in cell.split(", ")}


@every_node
def test_a_help_page_has_a_row_for_every_input(node: Any) -> None:
    inputs = {part.id for part in node.define_schema().inputs}
    assert inputs <= _row_names(_page(node))


@every_node
def test_a_help_page_says_where_inputs_are_that_nodes_2_0_hides(node: Any) -> None:
    is_any_hidden = any(getattr(part, "advanced", None) for part in node.define_schema().inputs)
    assert ("*Show advanced inputs*" in _page(node)) == is_any_hidden


@every_node
def test_a_help_page_names_every_output(node: Any) -> None:
    page = _page(node)
    outputs = {part.id for part in node.define_schema().outputs}
    assert outputs <= _row_names(page) | set(re.findall(r"`(\w+)`", page))
    assert "**Outputs.**" in page


@every_node
def test_a_help_page_says_when_to_use_the_node_and_what_to_do_when_it_fails(node: Any) -> None:
    page = _page(node)
    assert page.startswith("# ") and "**When.**" in page and "**If " in page


def _handed_on(schema: Any, place: int) -> str:
    """The input that the page hands on in place of an output of a bypassed or deleted node."""
    kind = schema.outputs[place].get_io_type()
    fitting = [part.id for part in schema.inputs if part.get_io_type() == kind]
    opposite = schema.inputs[place].id if place < len(schema.inputs) else ""
    return opposite if opposite in fitting else fitting[0]


def test_a_bypassed_node_hands_on_the_edits_and_not_the_photo() -> None:
    """Every output whose kind several inputs have: which of them takes its place."""
    found = {}
    for node in NODES:
        schema = node.define_schema()
        for place, output in enumerate(schema.outputs):
            kinds = [part.get_io_type() for part in schema.inputs]
            if kinds.count(output.get_io_type()) > 1:
                found[schema.node_id, output.id] = _handed_on(schema, place)
    assert found == {("StyleDiffusionKeepPixels", "images"): "edits",
                     ("StyleDiffusionEditMetrics", "report"): "prompt"}


@every_node
def test_an_execute_is_ten_lines_or_fewer(node: Any) -> None:
    source = inspect.getsource(node.execute).splitlines()
    body = source[next(i for i, line in enumerate(source) if "NodeOutput:" in line) + 1 :]
    assert 1 <= len(body) <= 10


def test_the_controllers_wishes_are_inputs_of_its_node() -> None:
    (node,) = (n for n in NODES if n.define_schema().node_id.endswith("P2PlusController"))
    inputs = {part.id for part in node.define_schema().inputs}
    assert set(controller.WordOptions.__dataclass_fields__) <= inputs
