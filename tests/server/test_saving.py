"""Save Inversion and Load Inversion on the real server."""

from pathlib import Path

import pytest

from development import examples
from development.examples import Prompt
from development.server import ExecutionError, PromptRejected, Server
from tests.graphs import CONTROL, INVERT, LEARN, SAMPLE, changed, short
from training import editing


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    return short(examples.prompt("Demo"))


def loading(prompt: Prompt, file: str) -> Prompt:
    """The graph with Load Inversion in the place of inversion and learning."""
    found = changed(prompt, SAMPLE, trajectory=["load", 0], value_embedding=["load", 1])
    found = changed(found, CONTROL, trajectory=["load", 0])
    for kind in (INVERT, LEARN):
        del found[examples.node_of(found, kind)]
    return {**found, "load": {
        "class_type": "StyleDiffusionLoadInversion", "inputs": {"file": file}}}


def test_an_edit_from_a_saved_inversion_is_the_same_to_the_last_bit(
    server: Server, graph: Prompt
) -> None:
    learn = examples.node_of(graph, LEARN)
    save = {"class_type": "StyleDiffusionSaveInversion", "inputs": {
        "trajectory": [examples.node_of(graph, INVERT), 0], "value_embedding": [learn, 0],
        "filename_prefix": "kept/cat"}}
    shown = examples.node_of(graph, "SaveImage")
    before = server.wait(server.queue({**graph, "save": save}))
    text = before["outputs"]["save"]["text"][0]
    file = f"kept/{text.removeprefix('Saved as ')} [output]"
    names = server.object_info()["StyleDiffusionLoadInversion"]["input"]["required"]["file"][1]
    assert file in names["options"]
    after = server.wait(server.queue(loading(graph, file)))
    first, again = (editing.decoded(server.images(e)[shown]) for e in (before, after))
    assert len(first) == len(again) == 3
    for one, other in zip(first, again, strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("file", [
    "../../secret.inversion.safetensors [output]", "gone.inversion.safetensors [output]",
    "/etc/passwd", "picture.png [input]",
])
def test_a_path_outside_the_hosts_folders_is_refused_before_anything_runs(
    server: Server, graph: Prompt, file: str
) -> None:
    with pytest.raises(PromptRejected, match="is not an inversion in|not in the output folder any"):
        server.queue(loading(graph, file))


def test_a_truncated_file_is_an_error_that_names_it(server: Server, graph: Prompt) -> None:
    broken = Path(server.base) / "output" / "broken.inversion.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ExecutionError, match="'broken.inversion.safetensors' cannot be read"):
        server.wait(server.queue(loading(graph, "broken.inversion.safetensors [output]")))
