"""What is typed wrong at the controller is refused by the real ComfyUI before anything runs."""

import re

import pytest

from development import examples
from development.examples import Prompt
from development.server import PromptRejected, Server
from tests import logs
from tests.graphs import CONTROL, changed, short

SOURCE = "a painting of a brown cat in the city"
ORANGE = "a painting of an orange cat in the city"


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    return short(examples.prompt("Demo"))


def linked(prompt: Prompt, text: str) -> Prompt:
    """The graph with its targets from another node, whose text is not known before the run."""
    found = changed(prompt, CONTROL, targets=["text", 0])
    return {**found, "text": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}}}


@pytest.mark.parametrize(("typed", "message"), [
    ({"targets": " \n"}, "targets is empty; write the edited prompt"),
    ({"emphasis": "cat: nan"}, "the emphasis 'nan' of 'cat' is not a number between -10 and 10"),
    ({"windows": "tau_c 0.3"}, "'tau_c 0.3' in windows is not of the form 'word: number'"),
    ({"blend_words": "cat; boat; cup"}, "blend_words has 3 parts between semicolons"),
    ({"tau_v": 1.5}, "Value 1.5 bigger than max of 1.0"),
])
def test_it_is_refused_with_the_message_of_the_run(
    server: Server, graph: Prompt, typed: dict[str, object], message: str
) -> None:
    with pytest.raises(PromptRejected, match=re.escape(message)):
        server.queue(changed(graph, CONTROL, **typed))


def test_targets_from_another_node_are_read_in_the_run_and_the_rest_before(
    server: Server, graph: Prompt
) -> None:
    typed = changed(graph, CONTROL, blend_words="", emphasis="cat: loud")
    with pytest.raises(PromptRejected, match="the emphasis 'loud' of 'cat'"):
        server.queue(linked(typed, ORANGE))
    entry = server.wait(server.queue(linked(changed(graph, CONTROL, blend_words="cat"), ORANGE)))
    (files,) = (f for name, f in server.images(entry).items()
                if name == examples.node_of(graph, "SaveImage"))
    assert len(files) == 2, "the reconstruction and one edit"


def test_a_numbered_list_runs_though_one_list_of_blend_words_names_what_went(
    server: Server, graph: Prompt
) -> None:
    before = len(logs.read(server))
    server.wait(server.queue(changed(
        graph, CONTROL, targets=f"1. {ORANGE}\n2. {SOURCE} here", blend_words="cat; cat, boat")))
    said = logs.read(server)[before:]
    assert "the list markers of targets are left out" in said
    assert "'boat', written in blend_words, is not in" in said
