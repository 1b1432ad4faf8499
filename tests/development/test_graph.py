"""The converter's rules on small graphs, with the expected API prompt written out."""

from __future__ import annotations

from typing import Any

import pytest

from development.graph import GraphError, to_prompt
from development.widgets import Widget, widgets_of

OBJECT_INFO: dict[str, Any] = {
    "Loader": {
        "display_name": "Load It",
        "input": {"required": {"file": [["a.safetensors", "b.safetensors"], {}]}},
    },
    "LoadImage": {
        "display_name": "Load Image",
        "input": {"required": {"image": [["cat.png"], {"image_upload": True}]}},
    },
    "Sampler": {
        "display_name": "Sampler",
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
                "method": ["COMBO", {"options": ["euler", "heun"]}],
            },
            "optional": {
                "control": ["CONTROL"],
                "prompt": ["STRING", {"multiline": True}],
                "fed": ["FLOAT", {"forceInput": True}],
            },
        },
        "input_order": {
            "required": ["model", "seed", "steps", "method"],
            "optional": ["control", "prompt", "fed"],
        },
    },
    "Patch": {
        "display_name": "Patch",
        "input": {
            "required": {"amount": ["FLOAT", {}], "control": ["CONTROL"], "model": ["MODEL"]}
        },
    },
    "Save": {"display_name": "Save", "input": {"required": {"images": ["IMAGE"]}}},
}

LOADED = {
    "class_type": "Loader",
    "inputs": {"file": "a.safetensors"},
    "_meta": {"title": "Load It"},
}


def node(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, "mode": 0, **fields}


def slot(name: str, kind: str, link: int | None, widget: bool = False) -> dict[str, Any]:
    extra = {"widget": {"name": name}} if widget else {}
    return {"name": name, "type": kind, "link": link, **extra}


def out(*kinds: str) -> list[dict[str, Any]]:
    return [{"name": kind, "type": kind} for kind in kinds]


def graph(nodes: list[dict[str, Any]], *links: list[Any]) -> dict[str, Any]:
    return {"version": 0.4, "nodes": nodes, "links": list(links)}


def loader(number: int = 1, **fields: Any) -> dict[str, Any]:
    values = {"widgets_values": ["a.safetensors"], "outputs": out("MODEL"), **fields}
    return node(number, "Loader", **values)


def sampler(number: int = 2, model_link: int | None = 1, **fields: Any) -> dict[str, Any]:
    values = {
        "inputs": [slot("model", "MODEL", model_link)],
        "widgets_values": [7, "randomize", 30, "heun", "a cat"],
        **fields,
    }
    return node(number, "Sampler", **values)


def sampled(**inputs: Any) -> dict[str, Any]:
    """The inputs of `sampler()` with its widgets' values, and others on top."""
    return {"seed": 7, "steps": 30, "method": "heun", "prompt": "a cat", **inputs}


def test_links_and_widget_values_in_schema_order() -> None:
    saved = graph([loader(), sampler(title="Mine")], [1, 1, 0, 2, 0, "MODEL"])
    assert to_prompt(saved, OBJECT_INFO) == {
        "1": LOADED,
        "2": {
            "class_type": "Sampler",
            "inputs": {
                "model": ["1", 0],
                "seed": 7,
                "steps": 30,
                "method": "heun",
                "prompt": "a cat",
            },
            "_meta": {"title": "Mine"},
        },
    }


def test_converted_widget_keeps_its_entry_but_the_link_wins() -> None:
    inputs = [slot("model", "MODEL", 1), slot("steps", "INT", 2, widget=True)]
    saved = graph(
        [loader(), sampler(inputs=inputs), node(3, "Save", outputs=out("INT"))],
        [1, 1, 0, 2, 0, "MODEL"],
        [2, 3, 0, 2, 1, "INT"],
    )
    prompt = to_prompt(saved, OBJECT_INFO)
    assert prompt["2"]["inputs"] == sampled(model=["1", 0], steps=["3", 0])


def test_unlinked_widget_sockets_and_optional_inputs_add_nothing() -> None:
    inputs = [
        slot("model", "MODEL", 1),
        slot("control", "CONTROL", None),
        slot("steps", "INT", None, widget=True),
    ]
    saved = graph([loader(), sampler(inputs=inputs)], [1, 1, 0, 2, 0, "MODEL"])
    assert to_prompt(saved, OBJECT_INFO)["2"]["inputs"] == sampled(model=["1", 0])


def test_reroutes_are_led_around_and_notes_left_out() -> None:
    reroutes = [
        node(3, "Reroute", inputs=[slot("", "*", 1)], outputs=out("MODEL")),
        node(4, "Reroute", inputs=[slot("", "*", 2)], outputs=out("MODEL")),
    ]
    notes = [node(5, "Note", widgets_values=["hi"]), node(6, "MarkdownNote", widgets_values=["hi"])]
    saved = graph(
        [loader(), *reroutes, *notes, sampler(model_link=3)],
        [1, 1, 0, 3, 0, "*"],
        [2, 3, 0, 4, 0, "MODEL"],
        [3, 4, 0, 2, 0, "MODEL"],
    )
    prompt = to_prompt(saved, OBJECT_INFO)
    assert set(prompt) == {"1", "2"}
    assert prompt["2"]["inputs"]["model"] == ["1", 0]


def test_bypassed_node_hands_on_the_input_of_the_same_type() -> None:
    inputs = [slot("control", "CONTROL", None), slot("model", "MODEL", 1)]
    patch = node(3, "Patch", inputs=inputs, outputs=out("MODEL"), mode=4, widgets_values=[0.5])
    saved = graph(
        [loader(), patch, sampler(model_link=2)],
        [1, 1, 0, 3, 1, "MODEL"],
        [2, 3, 0, 2, 0, "MODEL"],
    )
    prompt = to_prompt(saved, OBJECT_INFO)
    assert set(prompt) == {"1", "2"}
    assert prompt["2"]["inputs"]["model"] == ["1", 0]


def test_bypassed_node_without_a_fitting_input_feeds_nothing() -> None:
    inputs = [slot("control", "CONTROL", None)]
    patch = node(3, "Patch", inputs=inputs, outputs=out("MODEL"), mode=4)
    saved = graph([patch, sampler(model_link=2)], [2, 3, 0, 2, 0, "MODEL"])
    assert to_prompt(saved, OBJECT_INFO)["2"]["inputs"] == sampled()


def test_muted_node_is_left_out_with_the_links_from_it() -> None:
    saved = graph([loader(mode=2), sampler()], [1, 1, 0, 2, 0, "MODEL"])
    prompt = to_prompt(saved, OBJECT_INFO)
    assert set(prompt) == {"2"}
    assert prompt["2"]["inputs"] == sampled()


def test_primitive_gives_its_value_to_the_widget_it_feeds() -> None:
    primitive = node(3, "PrimitiveNode", widgets_values=[12, "fixed"], outputs=out("INT"))
    inputs = [slot("model", "MODEL", 1), slot("steps", "INT", 2, widget=True)]
    saved = graph(
        [loader(), primitive, sampler(inputs=inputs)],
        [1, 1, 0, 2, 0, "MODEL"],
        [2, 3, 0, 2, 1, "INT"],
    )
    assert to_prompt(saved, OBJECT_INFO)["2"]["inputs"] == sampled(model=["1", 0], steps=12)


@pytest.mark.parametrize("values", [["cat.png", "image"], ["cat.png"]])
def test_upload_button_leaves_an_entry_that_is_no_input(values: list[str]) -> None:
    saved = graph([node(1, "LoadImage", widgets_values=values)])
    assert to_prompt(saved, OBJECT_INFO)["1"]["inputs"] == {"image": "cat.png"}


def test_widget_values_by_name() -> None:
    values = {"seed": 1, "steps": 2, "method": "euler", "prompt": "x", "shown": True}
    saved = graph([sampler(model_link=None, widgets_values=values)])
    expected = {"seed": 1, "steps": 2, "method": "euler", "prompt": "x"}
    assert to_prompt(saved, OBJECT_INFO)["2"]["inputs"] == expected


def test_list_value_is_wrapped_so_that_it_is_no_link() -> None:
    saved = graph([loader(widgets_values=[["1", 0]])])
    assert to_prompt(saved, OBJECT_INFO)["1"]["inputs"] == {"file": {"__value__": ["1", 0]}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (["INT", {}], [Widget("x")]),
        (["INT", {"control_after_generate": True}], [Widget("x", controls=1)]),
        (["COMBO", {"options": ["a"], "control_after_generate": True}], [Widget("x", controls=2)]),
        ([["a", "b"], {}], [Widget("x")]),
        ([["a", "b"]], [Widget("x")]),
        (["INT", {"forceInput": True}], []),
        (["MODEL"], []),
        (["INT,FLOAT", {"widgetType": "FLOAT"}], [Widget("x")]),
    ],
)
def test_which_inputs_are_widgets(spec: list[Any], expected: list[Widget]) -> None:
    assert widgets_of({"input": {"required": {"x": spec}}}) == expected


@pytest.mark.parametrize("name", ["seed", "noise_seed"])
def test_seeds_have_a_control_unless_told_otherwise(name: str) -> None:
    assert widgets_of({"input": {"required": {name: ["INT", {}]}}}) == [Widget(name, controls=1)]
    plain = {"input": {"required": {name: ["INT", {"control_after_generate": False}]}}}
    assert widgets_of(plain) == [Widget(name)]


@pytest.mark.parametrize("values", [[7, 30, "heun", "a cat"], [7, "fixed", 30, "heun", "a", "b"]])
def test_wrong_number_of_widget_values_names_the_node(values: list[Any]) -> None:
    saved = graph([sampler(model_link=None, widgets_values=values, title="Mine")])
    with pytest.raises(GraphError, match=r"Node 2 'Mine' \(Sampler\) has \d widget values where 5"):
        to_prompt(saved, OBJECT_INFO)


def test_unknown_node_type_names_the_node() -> None:
    with pytest.raises(GraphError, match=r"Node 9 'Gone' \(Gone\).*install the pack"):
        to_prompt(graph([node(9, "Gone")]), OBJECT_INFO)


def test_unknown_but_muted_node_is_no_error() -> None:
    assert to_prompt(graph([node(9, "Gone", mode=2)]), OBJECT_INFO) == {}


def test_input_that_decides_about_others_is_refused() -> None:
    info = {"Dynamic": {"input": {"required": {"mode": ["COMFY_DYNAMICCOMBO_V3", {}]}}}}
    with pytest.raises(GraphError, match=r"Node 1 'Dynamic' \(Dynamic\) has an input 'mode'"):
        to_prompt(graph([node(1, "Dynamic")]), info)


def test_loop_of_reroutes_is_refused() -> None:
    reroute = node(3, "Reroute", inputs=[slot("", "*", 1)], outputs=out("*"))
    saved = graph([reroute, sampler(model_link=2)], [1, 3, 0, 3, 0, "*"], [2, 3, 0, 2, 0, "*"])
    with pytest.raises(GraphError, match="feeds itself"):
        to_prompt(saved, OBJECT_INFO)


@pytest.mark.parametrize("saved", [{"1": LOADED}, {"nodes": [], "links": [], "version": 1}])
def test_other_formats_are_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match=r"format 0\.4"):
        to_prompt(saved, OBJECT_INFO)
