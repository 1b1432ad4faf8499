"""What Server.forget promises, on a real ComfyUI that takes its time to tidy up after a run."""

import time

from development.environment import ensure
from development.places import PACK_NAME
from development.server import NOTHING, Server
from tests.bases import base_directory
from tests.graphs import cached_nodes

SLOW = """
import gc, time
collect = gc.collect
gc.collect = lambda *generation: time.sleep(2) or collect(*generation)
NODE_CLASS_MAPPINGS = {}
"""


def test_a_server_told_to_forget_while_it_tidies_up_runs_every_node_again() -> None:
    environment = ensure()
    base = base_directory(environment, "forgetting")
    slow = base / "custom_nodes" / "slow" / "__init__.py"
    slow.parent.mkdir(exist_ok=True)
    slow.write_text(SLOW, encoding="utf-8")
    text = {**NOTHING["1"], "inputs": {"value": "something"}}
    prompt = {"3": text, "4": {**NOTHING["2"], "inputs": {"source": ["3", 0]}}}
    arguments = ("--whitelist-custom-nodes", PACK_NAME, "slow")
    with Server(environment.python, environment.host, base, arguments=arguments) as server:
        server.wait(server.queue(prompt))
        time.sleep(0.4)  # until it has begun
        server.forget()
        assert cached_nodes(server.wait(server.queue(prompt))) == set()
        assert cached_nodes(server.wait(server.queue(prompt))) == {"3", "4"}
