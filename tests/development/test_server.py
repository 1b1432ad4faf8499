"""The server's life and its errors, with a stand-in for ComfyUI's main.py."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from development import serve, server
from development.client import describe_refusal
from development.environment import Environment
from development.server import (
    LOCAL,
    ExecutionError,
    ExecutionInterrupted,
    PromptRejected,
    Server,
    ServerError,
    checked,
)
from tests.graphs import cached_nodes

STAND_IN = """
import http.server, json, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
ERRORS = {"3": {"class_type": "Save", "errors": [{"message": "Missing", "details": "images"}]}}

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, {"arguments": sys.argv[1:]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(400, {"error": {"message": "Failed"}, "node_errors": ERRORS})

print("starting")
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def server_of(directory: Path, source: str, **options: Any) -> Server:
    (directory / "main.py").write_text(source)
    (directory / "user").mkdir()
    return Server(Path(sys.executable), directory, directory, **options)


@pytest.mark.parametrize("accelerator", [True, False])
def test_server_works_where_the_project_does(
    accelerator: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "host_arguments", lambda python: [] if accelerator else ["--cpu"])
    with server_of(tmp_path, STAND_IN) as running:
        arguments = running.get_json("/system_stats")["arguments"]
    assert ("--cpu" in arguments) == (not accelerator)


def test_server_starts_answers_and_stops(tmp_path: Path) -> None:
    with server_of(tmp_path, STAND_IN) as server:
        arguments = server.get_json("/system_stats")["arguments"]
        with pytest.raises(PromptRejected, match=r"node 3 \(Save\): Missing - images") as caught:
            server.queue({})
        assert set(caught.value.node_errors) == {"3"}
    assert arguments[arguments.index("--base-directory") + 1] == str(tmp_path)
    assert arguments[arguments.index("--whitelist-custom-nodes") + 1] == "stylediffusion"
    with pytest.raises(ServerError, match="ended with exit code"):
        server.get_json("/system_stats")


def test_server_that_dies_tells_what_it_said(tmp_path: Path) -> None:
    dying = "print('\\x1b[31mno torch\\x1b[0m caf\\u00e9'); raise SystemExit(3)"
    with (
        pytest.raises(ServerError, match=r"exit code 3; it said:\n    no torch caf") as caught,
        server_of(tmp_path, dying),
    ):
        pass
    assert str(caught.value).isascii()


def test_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    begun = time.monotonic()
    with (
        pytest.raises(ServerError, match="not ready after"),
        server_of(tmp_path, "import time; time.sleep(600)", startup_seconds=0.1),
    ):
        pass
    assert time.monotonic() - begun < 200, "neither its end nor the usual 240 s were waited for"


def test_pack_that_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    failing = STAND_IN.replace('"starting"', '"0.1 seconds (IMPORT FAILED): stylediffusion"')
    with (
        pytest.raises(ServerError, match="could not import the pack"),
        server_of(tmp_path, failing),
    ):
        pass


def entry(*messages: list[Any], status: str = "error") -> dict[str, Any]:
    return {"status": {"status_str": status, "messages": list(messages)}, "outputs": {}}


def test_history_entries() -> None:
    done = entry(["execution_cached", {"nodes": ["1", "2"]}], status="success")
    assert checked(done) is done
    assert cached_nodes(done) == {"1", "2"}
    node = {"node_id": "4", "node_type": "Sample"}
    failed = {**node, "exception_type": "ValueError", "exception_message": "no such word\n"}
    with pytest.raises(
        ExecutionError, match=r"node 4 \(Sample\) failed: ValueError: no such word$"
    ):
        checked(entry(["execution_error", failed]))
    with pytest.raises(ExecutionInterrupted, match=r"interrupted in node 4 \(Sample\)"):
        checked(entry(["execution_interrupted", node]))
    with pytest.raises(ServerError, match="ended as error"):
        checked(entry())


def test_refusal_without_node_errors() -> None:
    refusal = describe_refusal({"message": "No outputs", "details": ""}, None)
    assert refusal == "ComfyUI refused the graph: No outputs"


def test_serve_names_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((LOCAL, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} is taken"):
            serve.run(Environment(Path(sys.executable), tmp_path, tmp_path), False, port)


def test_serve_leaves_a_graph_that_a_person_saved_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    shipped = [tmp_path / "shipped" / name for name in ("a.json", "b.json")]
    for path in shipped:
        path.write_text("ours")
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.json").write_text("theirs")
    serve.copy_missing(shipped, own)
    assert [(own / path.name).read_text() for path in shipped] == ["theirs", "ours"]
