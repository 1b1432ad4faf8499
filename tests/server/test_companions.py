"""The demo graph with a companion in the place of Learn Value Embedding, on the real server."""

import pytest

from development import editing, examples
from development.examples import Prompt
from development.server import Server
from stylediffusion.drawing.metrics import psnr
from tests.graphs import LEARN, PREFIX, SAMPLE, short

PROMPTS = PREFIX + "LearnPromptEmbedding"


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    return short(examples.prompt("Demo"))


def with_companion(prompt: Prompt, kind: str) -> Prompt:
    """The graph with Learn Prompt Embedding under the id that Learn Value Embedding had."""
    place = editing.node_of(prompt, LEARN)
    kept = {name: prompt[place]["inputs"][name] for name in ("model", "trajectory", "guidance")}
    learning = {"class_type": PROMPTS, "inputs": {
        **kept, "learn": kind, "inner_steps": 10, "learning_rate": 0.01}}
    return {**prompt, place: learning}


@pytest.mark.parametrize("kind", ["null text", "text embedding"])
def test_the_reconstruction_comes_nearer_than_without_and_edits_are_painted(
    server: Server, graph: Prompt, kind: str
) -> None:
    learnt = with_companion(graph, kind)
    sample, save = (editing.node_of(learnt, name) for name in (SAMPLE, "SaveImage"))
    bare = {name: value for name, value in learnt[sample]["inputs"].items()
            if name != "value_embedding"}
    without = {**learnt, sample: {**learnt[sample], "inputs": bare}}
    source = {"class_type": "PreviewImage", "inputs": {
        "images": [editing.node_of(learnt, PREFIX + "DemoScene"), 0]}}
    first = server.images(server.wait(server.queue({**learnt, "source": source})))
    second = server.images(server.wait(server.queue(without)))
    wanted = editing.decoded(first["source"])[0]
    painted, plain = editing.decoded(first[save]), editing.decoded(second[save])
    assert psnr(painted[0], wanted) > psnr(plain[0], wanted) + 1
    assert len(painted) == 3
    for edit in painted[1:]:
        assert not edit.equal(painted[0])
