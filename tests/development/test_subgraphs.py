"""Saved graphs with subgraphs, with the expected API prompt written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from development.graph import to_prompt
from development.subgraphs import unpacked

INFO: dict[str, Any] = {
    "Make": {"input": {"required": {"size": ["INT", {}]}}, "display_name": "Make"},
    "Mix": {"input": {"required": {"one": ["IMAGE"], "text": ["STRING", {}]},
                      "optional": {"two": ["IMAGE"]}}, "display_name": "Mix"},
    "Show": {"input": {"required": {"image": ["IMAGE"]}}, "display_name": "Show"},
}
MIX = {"id": 3, "type": "Mix", "widgets_values": ["inner"], "inputs": [
    {"name": "one", "type": "IMAGE", "link": 1},
    {"name": "text", "type": "STRING", "link": 2, "widget": {"name": "text"}},
    {"name": "two", "type": "IMAGE", "link": 3}], "outputs": [{"type": "IMAGE", "links": [4]}]}


def link(number: int, *ends: Any) -> dict[str, Any]:
    names = ("origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {"id": number, **dict(zip(names, ends, strict=True))}


BLOCK = {
    "id": "block", "nodes": [MIX],
    "inputs": [{"name": name} for name in ("image", "words", "other")],
    "outputs": [{"name": "mixed"}],
    "links": [link(1, -10, 0, 3, 0, "IMAGE"), link(2, -10, 1, 3, 1, "STRING"),
              link(3, -10, 2, 3, 2, "IMAGE"), link(4, 3, 0, -20, 0, "IMAGE")],
}


def saved(**shown: Any) -> dict[str, Any]:
    """Make -> the block -> Show; its input `other` is fed by nothing."""
    instance = {"id": 2, "type": "block", "inputs": [
        {"name": "image", "type": "IMAGE", "link": 1},
        {"name": "words", "type": "STRING", "link": None, "widget": {"name": "words"}},
        {"name": "other", "type": "IMAGE", "link": None}],
        "outputs": [{"type": "IMAGE", "links": [2]}], "widgets_values": ["outer"], **shown}
    return {
        "version": 0.4,
        "nodes": [
            {"id": 1, "type": "Make", "widgets_values": [64], "inputs": []}, instance,
            {"id": 4, "type": "Show", "inputs": [{"name": "image", "type": "IMAGE", "link": 2}]}],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 4, 0, "IMAGE"]],
        "definitions": {"subgraphs": [BLOCK]},
    }


def prompt(graph: dict[str, Any]) -> dict[str, Any]:
    return {number: (node["class_type"], node["inputs"])
            for number, node in to_prompt(graph, INFO).items()}


def test_a_blocks_nodes_stand_in_its_place_with_its_links_and_its_values() -> None:
    graph = saved()
    before = copy.deepcopy(graph)
    assert prompt(graph) == {
        "1": ("Make", {"size": 64}),
        "4": ("Show", {"image": ["2:3", 0]}),
        "2:3": ("Mix", {"one": ["1", 0], "text": "outer"}),
    }
    assert graph == before


def test_slots_that_the_page_has_put_in_another_order_are_known_by_their_links() -> None:
    graph = copy.deepcopy(saved())
    graph["definitions"]["subgraphs"][0]["nodes"][0]["inputs"].reverse()
    assert prompt(graph) == prompt(saved())


def test_the_page_leaves_out_inputs_that_are_widgets_and_their_values_still_count() -> None:
    graph = saved()
    graph["nodes"][1]["inputs"] = graph["nodes"][1]["inputs"][:1]
    assert prompt(graph)["2:3"] == ("Mix", {"one": ["1", 0], "text": "outer"})


def test_a_block_without_values_has_those_of_its_nodes() -> None:
    assert prompt(saved(widgets_values=[]))["2:3"][1]["text"] == "inner"


def test_a_block_in_a_block_is_unpacked_as_well() -> None:
    graph = saved()
    outer = {"id": "outer", "nodes": [
        {"id": 7, "type": "block", "widgets_values": ["deep"],
         "inputs": [{"name": "image", "type": "IMAGE", "link": 5},
                    {"name": "words", "type": "STRING", "link": None, "widget": {"name": "w"}},
                    {"name": "other", "type": "IMAGE", "link": 5}],
         "outputs": [{"type": "IMAGE", "links": [6]}]}],
        "inputs": [{"name": "image"}], "outputs": [{"name": "mixed"}],
        "links": [link(5, -10, 0, 7, 0, "IMAGE"), link(8, -10, 0, 7, 2, "IMAGE"),
                  link(6, 7, 0, -20, 0, "IMAGE")]}
    outer["nodes"][0]["inputs"][2]["link"] = 8
    graph["nodes"][1].update(type="outer", inputs=graph["nodes"][1]["inputs"][:1])
    graph["definitions"]["subgraphs"].append(outer)
    assert prompt(graph)["2:7:3"] == ("Mix", {"one": ["1", 0], "text": "deep", "two": ["1", 0]})
    assert prompt(graph)["4"] == ("Show", {"image": ["2:7:3", 0]})


@pytest.mark.parametrize(("mode", "shown"), [(2, {}), (4, {"image": ["1", 0]})])
def test_a_muted_block_is_left_out_and_a_bypassed_one_is_led_around(
    mode: int, shown: dict[str, Any]
) -> None:
    assert prompt(saved(mode=mode)) == {"1": ("Make", {"size": 64}), "4": ("Show", shown)}


def test_a_graph_without_blocks_is_itself() -> None:
    plain = {"nodes": [], "links": [], "version": 0.4}
    assert unpacked(plain) is plain
