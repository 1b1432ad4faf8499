"""Every node refuses, by its own schema, what the host lets through over a link or as JSON."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfy_api.latest import io
from stylediffusion_pack import comfy_entrypoint
from stylediffusion_pack.stylediffusion.host import doors


async def _listed() -> list[Any]:
    return await (await comfy_entrypoint()).get_node_list()


NODES = {node.define_schema().node_id: node for node in asyncio.run(_listed())}
EVERY = [(node, wanted) for node in NODES.values() for wanted in node.define_schema().inputs]


def fitting(wanted: Any) -> Any:
    """A value that passes the door, if not the room behind it."""
    if isinstance(wanted, (io.Float.Input, io.Int.Input)):
        return wanted.min
    if isinstance(wanted, io.Combo.Input):
        return (wanted.options or ["x"])[0]
    kind = wanted.get_io_type()
    if kind in doors.SOURCES:
        trait = doors.SOURCES[kind][1]
        found = {"LATENT": {}, "IMAGE": torch.zeros(1, 1, 1, 3),
                 "MASK": torch.zeros(1, 1)}.get(kind)
        if found is None:
            if isinstance(trait, str):
                return SimpleNamespace(**{trait: 1})
            concrete = next(iter(trait.__subclasses__()), trait)
            found = concrete.__new__(concrete)
        return found
    return "x" if isinstance(wanted, io.String.Input) else True


def refused(node: Any, wanted: Any, value: Any) -> str:
    """What a node says that gets one wrong value among right ones."""
    given = {other.id: fitting(other) for other in node.define_schema().inputs}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is what is returned)
        node.execute(**{**given, wanted.id: value})
    return str(caught.value)


def named(kinds: tuple[Any, ...]) -> Any:
    chosen = [pair for pair in EVERY if isinstance(pair[1], kinds)]
    return pytest.mark.parametrize(
        ("node", "wanted"), chosen, ids=[f"{n.__name__}.{w.id}" for n, w in chosen])


@named((io.Float.Input, io.Int.Input))
def test_a_number_that_is_none_or_out_of_range_is_named_with_the_range(
    node: Any, wanted: Any
) -> None:
    limits = f"number from {wanted.min} to {wanted.max}"
    for value in (math.nan, math.inf, -math.inf, wanted.min - 1, wanted.max + 1, 10**400, "7", []):
        said = refused(node, wanted, value)
        assert said.startswith(f"{wanted.id} is ") and said.endswith(limits)
        assert len(said) < 300
    assert f"the {wanted.id} is None" in refused(node, wanted, None)


@named((io.Int.Input,))
def test_a_broken_number_is_no_whole_one(node: Any, wanted: Any) -> None:
    assert "must be a whole number" in refused(node, wanted, wanted.min + 0.5)


@named((io.String.Input, io.Combo.Input))
def test_what_is_no_text_is_named(node: Any, wanted: Any) -> None:
    assert f"{wanted.id} is 7, which is no text" in refused(node, wanted, 7)
    assert f"the {wanted.id} is None" in refused(node, wanted, None)


def test_a_choice_that_there_is_not_is_named_with_those_there_are() -> None:
    learn = NODES["StyleDiffusionLearnValueEmbedding"]
    (preset,) = (wanted for wanted in learn.define_schema().inputs if wanted.id == "preset")
    assert refused(learn, preset, "quick") == "preset is 'quick', but must be one of fast, exact"


def test_a_node_that_is_handed_lists_looks_at_each_of_their_values(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    learn = NODES["StyleDiffusionLearnValueEmbedding"]
    monkeypatch.setattr(doors, "require_fit", lambda wanted, value: seen.append(value))
    given = {wanted.id: [f"{wanted.id} {i}" for i in range(2)]
             for wanted in learn.define_schema().inputs}
    with pytest.raises(Exception):  # noqa: B017 (texts are no models; what they pass is seen)
        learn.execute(**given)
    assert seen == [value for values in given.values() for value in values]


SOCKETS = [(n, w) for n, w in EVERY if not w.optional and w.get_io_type() in doors.SOURCES]


@pytest.mark.parametrize(
    ("node", "wanted"), SOCKETS, ids=[f"{n.__name__}.{w.id}" for n, w in SOCKETS])
def test_an_empty_or_foreign_socket_is_named_with_what_to_connect(node: Any, wanted: Any) -> None:
    said = refused(node, wanted, None)
    assert " is None" in said and "onnect " in said
    said = refused(node, wanted, "x")
    assert said.startswith(f"the {wanted.id} is of another kind (str); connect ")


SHAPED = [(n, w) for n, w in EVERY if w.get_io_type() in doors.SHAPES]


@pytest.mark.parametrize(
    ("node", "wanted"), SHAPED, ids=[f"{n.__name__}.{w.id}" for n, w in SHAPED])
def test_a_tensor_without_content_or_of_too_few_dimensions_is_named_with_its_shape(
    node: Any, wanted: Any
) -> None:
    least = {"IMAGE": 4, "MASK": 2}[wanted.get_io_type()]
    empty = [tuple(3 * (i != k) for i in range(least)) for k in range(least)]
    for shape in [*((3,) * dimensions for dimensions in range(least)), *empty]:
        assert refused(node, wanted, torch.zeros(shape)).startswith(
            f"the {wanted.id} has shape {shape}, but a")
    doors.require_fit(wanted, torch.zeros((3,) * least))


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), 1, True, 0.0])
def test_numbers_of_other_nodes_pass(value: Any) -> None:
    doors.require_fit(io.Float.Input("x", min=0.0, max=1.0), value)


@named((io.String.Input,))
def test_half_a_character_is_shown_with_a_backslash(node: Any, wanted: Any) -> None:
    assert rf"{wanted.id} is 'a \ud800', which holds a broken" in refused(node, wanted, "a \ud800")


@pytest.mark.parametrize(("name", "node"), [
    ("control_net", "StyleDiffusionDDIMInvert"),
    ("clip_vision", "StyleDiffusionLearnValueEmbedding"),
])
def test_an_optional_socket_takes_nothing_but_its_kind(name: str, node: str) -> None:
    (wanted,) = (part for part in NODES[node].define_schema().inputs if part.id == name)
    said = refused(NODES[node], wanted, {})
    assert said.startswith(f"the {name} is of another kind (dict); connect Load ")
    doors.require_fit(wanted, None)


def test_a_linked_file_is_known_only_when_the_graph_runs() -> None:
    load = NODES["StyleDiffusionLoadInversion"]
    assert load.validate_inputs(None) is True
    assert math.isnan(load.fingerprint_inputs(None))
