"""What Server.forget promises, on the real ComfyUI."""

from development.server import NOTHING, Server
from tests.graphs import cached_nodes


def test_a_prompt_runs_every_node_again_after_the_server_was_told_to_forget(
    server: Server
) -> None:
    text = {**NOTHING["1"], "inputs": {"value": "something"}}
    again = {"3": text, "4": {**NOTHING["2"], "inputs": {"source": ["3", 0]}}}
    server.wait(server.queue(again))
    assert cached_nodes(server.wait(server.queue(again))) == {"3", "4"}
    for _ in range(3):
        server.forget()
        assert cached_nodes(server.wait(server.queue(again))) == set()
