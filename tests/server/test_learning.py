"""Learning on the real server: stopped and gone on with, after a crash too, and no leak."""

import asyncio
import os
import re
import signal
from typing import Any

import aiohttp
import psutil
import pytest

from development import examples
from development.environment import ensure
from development.examples import Prompt
from development.server import ExecutionInterrupted, Server, ServerError
from tests import logs
from tests.bases import base_directory
from tests.graphs import INVERT, LEARN, changed
from training import editing

SCENE = "StyleDiffusionDemoScene"
FIRST_STEP = 12  # of the bar: the evaluations of the fast preset's first step


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    """Eight steps of learning, of a picture no other test learns."""
    prompt = examples.prompt("Demo")
    return changed(changed(prompt, INVERT, steps=8), SCENE, seed=11)


class LearningProgress:
    """Notes what the learning node reports, and does something once it is past the middle."""

    def __init__(self, prompt: Prompt, then: Any = None) -> None:
        self.node, self.then = examples.node_of(prompt, LEARN), then
        self.values: list[float] = []

    def __call__(self, node_id: str, value: float, maximum: float) -> None:
        if node_id != self.node or maximum <= 1:
            return
        self.values.append(value)
        if self.then is not None and value > maximum / 2:
            then, self.then = self.then, None
            then()


def pictures(server: Server, prompt: Prompt, progress: Any = None) -> list[Any]:
    entry = server.wait(server.queue(prompt), progress)
    return editing.decoded(server.images(entry)[examples.node_of(prompt, "SaveImage")])


def test_a_stopped_run_goes_on_and_paints_the_same(server: Server, graph: Prompt) -> None:
    with pytest.raises(ExecutionInterrupted, match=LEARN):
        pictures(server, graph, LearningProgress(graph, server.interrupt))
    rest = LearningProgress(graph)
    resumed = pictures(server, graph, rest)
    assert min(rest.values) > max(rest.values) / 3, "finished steps are not learnt again"
    again, unused = LearningProgress(graph), changed(graph, LEARN, seed=1)
    whole = pictures(server, unused, again)
    assert min(again.values) < max(again.values) / 3, "nothing was left of the stopped run"
    for one, other in zip(resumed, whole, strict=True):
        assert editing.decibels(one, other) > 45, "the kernels' own rounding is all that may differ"


async def texts_until(server: Server, prompt: Prompt, wanted: str) -> list[str]:
    """What the learning node shows as text until it says what is wanted.

    The run is interrupted once a time is shown.
    """
    address = f"ws{server.url[len('http'):]}/ws?clientId={server.client_id}"
    node, said = examples.node_of(prompt, LEARN).encode(), list[str]()
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        server.queue(prompt)
        while not (said and re.match(wanted, said[-1])):
            message = await socket.receive(timeout=60)
            begins = b"\0\0\0\3" + len(node).to_bytes(4, "big") + node
            if message.type is aiohttp.WSMsgType.BINARY and message.data.startswith(begins):
                said.append(message.data[len(begins):].decode())
                server.interrupt()
    return said


def test_the_page_is_told_the_time_left_and_how_it_ended(server: Server, graph: Prompt) -> None:
    slow = changed(graph, LEARN, preset="exact", seed=2)
    first, *_, last = asyncio.run(texts_until(server, slow, "stopped after"))
    assert re.fullmatch(r"\d+:\d\d left", first) and re.fullmatch(r"stopped after 0:\d\d", last)


def test_a_crashed_run_goes_on_in_the_next_server() -> None:
    environment = ensure()
    base = base_directory(environment, "crash")
    with Server(environment.python, environment.host, base) as server:
        graph = examples.prompt("Demo")
        graph = changed(changed(graph, INVERT, steps=8), SCENE, seed=12)
        assert server._process is not None
        kill = (os.kill, server._process.pid, signal.SIGKILL)
        with pytest.raises((ServerError, OSError)):
            pictures(server, graph, LearningProgress(graph, lambda: kill[0](*kill[1:])))
    with Server(environment.python, environment.host, base) as server:
        rest = LearningProgress(graph)
        assert len(pictures(server, graph, rest)) == 3
        assert min(rest.values) > FIRST_STEP, "what was written last, by the clock, is kept"


def test_ten_pictures_leave_no_more_memory_in_use_than_two(server: Server, graph: Prompt) -> None:
    assert server._process is not None
    process, resident = psutil.Process(server._process.pid), []
    for seed in range(20, 30):
        pictures(server, changed(changed(graph, SCENE, seed=seed), INVERT, steps=2))
        resident.append(process.memory_info().rss)
    # Some pictures' buffers are still there at the moment of asking: the least of three counts.
    assert min(resident[7:]) < 1.015 * min(resident[1:4]), [round(r / 1e6) for r in resident]


def test_a_list_of_photos_is_learnt_side_by_side_and_each_as_alone(
    server: Server, graph: Prompt
) -> None:
    """ComfyUI maps every other node over the list; Learn Value Embedding takes it whole."""
    graph = changed(graph, INVERT, steps=6)
    scene = examples.node_of(graph, SCENE)
    listed = changed(graph, "VAEEncode", pixels=["photos", 0])
    listed["other"] = {"class_type": SCENE, "inputs": {**graph[scene]["inputs"], "seed": 13}}
    listed["photos"] = {"class_type": "CreateList", "inputs": {
        "inputs.input0": [scene, 0], "inputs.input1": ["other", 0]}}
    before = len(logs.read(server))
    bar = LearningProgress(listed)
    together = pictures(server, listed, bar)
    assert "2 pictures were learnt, 2 at a time" in logs.read(server)[before:]
    assert bar.values == sorted(bar.values)
    apart = [pictures(server, changed(graph, SCENE, seed=seed)) for seed in (11, 13)]
    assert len(apart[0]) == len(apart[1]) == 3 and len(together) == 6
    for one, other in zip(together, [*apart[0], *apart[1]], strict=True):
        off = editing.decibels(one, other)
        assert off > 40, "rows of one batch are rounded otherwise than alone"
    assert editing.decibels(together[0], together[3]) < 30, "two different photos"
