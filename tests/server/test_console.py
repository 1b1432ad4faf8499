"""The real ComfyUI on a console that cannot print every character outlives the pack's errors."""

from collections.abc import Iterator

import pytest

from development import examples
from development.environment import ensure
from development.examples import Prompt
from development.server import ExecutionError, PromptRejected, Server
from tests.bases import base_directory
from tests.graphs import CONTROL, changed, short

TIGER = "\u0442\u0438\u0433\u0440"
FAILING = "StyleDiffusionHeatmaps"


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    """A server whose console is as where its output goes to a file on Windows."""
    environment = ensure()
    base = base_directory(environment, "console")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONIOENCODING", "cp1252")
        patch.setenv("PYTHONUTF8", "0")
        with Server(environment.python, environment.host, base) as running:
            yield running


def looking_for(prompt: Prompt, words: str) -> Prompt:
    """The graph's inversion, and the heat of words that its prompt has or has not."""
    invert = examples.node_of(prompt, "StyleDiffusionDDIMInvert")
    inputs = prompt[invert]["inputs"]
    return {**prompt, "heat": {"class_type": FAILING, "inputs": {
        "model": inputs["model"], "clip": inputs["clip"], "trajectory": [invert, 0],
        "words": words, "target": 0, "steps": "0-1"}}}


def only(prompt: Prompt, node: str) -> Prompt:
    """A node of a graph with all it needs."""
    kept, rest = {}, [node]
    while rest:
        name = rest.pop()
        kept[name] = prompt[name]
        rest += [value[0] for value in prompt[name]["inputs"].values() if isinstance(value, list)]
    return kept


@pytest.mark.parametrize("which", ["narrow", "server"])
@pytest.mark.parametrize(("word", "said"), [
    (TIGER, "written in words, is not a word of"),
    ("\U0001f431", "written in words, is not a word of"),
    ("\ud800", "holds a broken character"),
])
def test_the_next_graph_runs_after_an_error_that_quotes(
    which: str, request: pytest.FixtureRequest, word: str, said: str
) -> None:
    running: Server = request.getfixturevalue(which)
    graph = short(examples.prompt("Demo"))
    with pytest.raises(ExecutionError, match=said):
        running.wait(running.queue(only(looking_for(graph, word), "heat")))
    entry = running.wait(running.queue(only(looking_for(graph, ""), "heat")))
    assert entry["outputs"]["heat"]["images"]


@pytest.mark.parametrize("word", [TIGER, "\ud800"])
def test_a_refusal_that_quotes_leaves_the_server_answering(narrow: Server, word: str) -> None:
    graph = short(examples.prompt("Demo"))
    with pytest.raises(PromptRejected, match="is not a number"):
        narrow.queue(changed(graph, CONTROL, emphasis=f"{word}: {word}"))
    assert narrow.object_info()[FAILING]
