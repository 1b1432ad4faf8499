"""A client of a batch, against a stand-in for ComfyUI that drops, forgets and refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from urllib3 import Retry

from edits import client
from edits.client import Client, Refused, WorkerLost

REFUSAL = {"error": {"message": "Prompt has no outputs", "details": ""}, "node_errors": {
    "edit": {"class_type": "Sample", "errors": [{"message": "Too\nbig", "details": "tau_s"}]}}}


class StandIn(ThreadingHTTPServer):
    """Answers what is laid ready for a path; where that is None it hangs up, once."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any] | None]] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, StandIn)
        self.server.asked.append(self.path)
        answer = self.server.answers[self.path].pop(0)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = True
        if answer is None:
            return
        body = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[StandIn]:
    with StandIn() as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.01,))
        thread.start()
        yield host
        host.shutdown()
        thread.join()


def client_of(host: StandIn) -> Client:
    return Client(f"http://127.0.0.1:{host.server_port}/")


def test_a_connection_that_is_dropped_is_tried_again(host: StandIn) -> None:
    host.answers = {"/object_info": [None, (200, {"Sample": {}})],
                    "/prompt": [None, (200, {"prompt_id": "a"})]}
    asking = client_of(host)
    asking.connect()
    assert asking.nodes == {"Sample"}
    asking.queue({}, "a")
    assert host.asked == ["/object_info"] * 2 + ["/prompt"] * 2


def test_who_never_answers_or_fails_is_lost(
    host: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "AGAIN", Retry(1, backoff_factor=0, allowed_methods=None))
    host.answers = {"/object_info": [None, None, (500, {})]}
    asking = client_of(host)
    with pytest.raises(WorkerLost, match="/object_info does not answer"):
        asking.connect()
    with pytest.raises(WorkerLost, match="/object_info answers 500"):
        asking.connect()


def test_a_known_prompt_is_waited_for_and_a_forgotten_one_is_lost(host: StandIn) -> None:
    done = {"status": "completed", "outputs": {}}
    host.answers = {"/api/jobs/a": [(200, {"status": "in_progress"}), (200, done)],
                    "/api/jobs/b": [(404, {}), (404, {})],
                    "/prompt": [(200, {"prompt_id": "b"})]}
    assert client_of(host).run({}, "a") == done
    with pytest.raises(WorkerLost, match="has forgotten the prompt"):
        client_of(host).run({}, "b")
    assert host.asked.count("/prompt") == 1


def test_a_refusal_is_one_line_and_what_would_run_of_it_is_cancelled(host: StandIn) -> None:
    host.answers = {"/prompt": [(400, REFUSAL), (200, {**REFUSAL, "prompt_id": "a"})],
                    "/api/jobs/a/cancel": [(200, {})]}
    for _ in range(2):
        with pytest.raises(Refused, match=r"no outputs node edit \(Sample\): Too big - tau_s$"):
            client_of(host).queue({}, "a")
    assert host.asked == ["/prompt", "/prompt", "/api/jobs/a/cancel"]
    failed = {"status": "failed", "execution_error": {
        "node_type": "Sample", "exception_message": "no such\nword\n"}}
    host.answers = {"/api/jobs/a": [(404, {}), (200, failed)],
                    "/prompt": [(200, {"prompt_id": "a"})]}
    with pytest.raises(Refused, match="^Sample: no such word$"):
        client_of(host).run({}, "a")
