"""The real ComfyUI as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import requests

from .client import Client, ServerError, describe_refusal
from .device import OPTION, host_arguments
from .places import PACK_NAME, clean_variables

Progress = Callable[[str, float, float], None]
LOCAL = "127.0.0.1"
STOP_SECONDS = 10.0
LOG_TAIL_LINES = 25
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
POLL_SECONDS = 0.1
NOTHING = {"1": {"class_type": "PrimitiveString", "inputs": {"value": ""}},
           "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}


class PromptRejected(ServerError):
    """A prompt that did not pass the host's validation; `node_errors` is the host's answer."""

    def __init__(self, message: str, node_errors: dict[str, Any]) -> None:
        super().__init__(message)
        self.node_errors = node_errors


class ExecutionError(ServerError):
    """A node failed; `details` is the host's message with node_id, node_type, traceback."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class ExecutionInterrupted(ServerError):
    """The run was interrupted before its end."""


class Server(Client):
    """A ComfyUI server with this pack as its only custom node, for the length of a `with` block.

    `base` is a directory from Environment.base_directory; models, input and output lie in it. The
    server's console goes to `log`, by default server.log in `base`. With `cpu` None it works where
    the other programs of this project do.
    """

    def __init__(
        self, python: Path, host: Path, base: Path, *, cpu: bool | None = None,
        port: int | None = None, log: Path | None = None, arguments: Sequence[str] = (),
        startup_seconds: float = 240.0,
    ) -> None:
        self.python, self.host, self.base = python, host, base
        self.port = port or free_port()
        super().__init__(f"http://{LOCAL}:{self.port}")
        self.log = log or base / "server.log"
        self.client_id = uuid.uuid4().hex
        where = host_arguments(python) if cpu is None else [OPTION] if cpu else []
        self._arguments = [*where, *arguments]
        self._startup_seconds = startup_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with open(self.log, "wb") as log:
            # A Ctrl-C at the console is for the caller, who then stops the server in order.
            self._process = subprocess.Popen(
                self._command(), cwd=self.host, env=clean_variables(PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server's process, gently and then not, and no other process."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queue an API-format prompt and return its id; saved images carry `workflow` if given.

        A prompt that is wrong anywhere is refused whole with PromptRejected, where the host alone
        would run the outputs it can.
        """
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        body = {"prompt": prompt, "client_id": self.client_id, "extra_data": extra}
        response = self.ask("POST", "/prompt", json=body)
        answer = response.json()
        node_errors = answer.get("node_errors") or {}
        if response.ok and not node_errors:
            return str(answer["prompt_id"])
        if response.ok:
            self.checked("POST", "/queue", json={"delete": [answer["prompt_id"]]})
            self.interrupt(answer["prompt_id"])
        raise PromptRejected(describe_refusal(answer.get("error"), node_errors), node_errors)

    def wait(self, prompt_id: str, progress: Progress | None = None) -> dict[str, Any]:
        """Wait for a queued prompt and return its history entry.

        `progress(node_id, value, maximum)` is called for a node's start and each of its steps.
        """
        if progress is not None:
            with contextlib.suppress(aiohttp.ClientError):  # what follows sees how the run ended
                asyncio.run(self._follow(prompt_id, progress))
        while (entry := self._ended(prompt_id)) is None:
            time.sleep(POLL_SECONDS)
        return checked(entry)

    async def _follow(self, prompt_id: str, progress: Progress) -> None:
        """Report the progress that the server tells of until the prompt has ended."""
        last: dict[str, tuple[float, float]] = {}
        address = f"{self.url}/ws?clientId={self.client_id}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as told,
        ):
            while True:
                try:
                    message = await told.receive(POLL_SECONDS)
                except asyncio.TimeoutError:  # noqa: UP041 (another class before Python 3.11)
                    message = None
                if message is None or told.closed:
                    if self._ended(prompt_id):
                        return
                    continue
                said = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
                data = said.get("data") or {}
                if said.get("type") == "progress_state" and data["prompt_id"] == prompt_id:
                    for node_id, state in data["nodes"].items():
                        now = float(state["value"]), float(state["max"])
                        if last.get(node_id) != now:
                            last[node_id] = now
                            progress(node_id, *now)

    def _ended(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a prompt that has ended."""
        entry: dict[str, Any] | None = self.get_json(f"/history/{prompt_id}").get(prompt_id)
        return entry

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """As of any server; where the process has ended, the error says how."""
        try:
            return super().ask(method, path, **options)
        except ServerError:
            self.require_running()
            raise

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt the running prompt, or this one only."""
        self.checked("POST", "/interrupt", json={"prompt_id": prompt_id} if prompt_id else {})

    def forget(self) -> None:
        """Make the next prompt run every node again.

        The host looks at the wish when a prompt has ended, but where it comes while it tidies up
        after one, not before the next has ended: so a prompt of nothing follows.
        """
        self.checked("POST", "/free", json={"unload_models": False, "free_memory": True})
        self.wait(self.queue(NOTHING))

    def log_tail(self) -> str:
        """The last lines the server has written, as any console can show them."""
        lines = COLOUR.sub("", self._read_log()).splitlines()
        return "\n".join("    " + line for line in lines[-LOG_TAIL_LINES:])

    def _read_log(self) -> str:
        return self.log.read_text(encoding="ascii", errors="replace").replace("\ufffd", "?")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._startup_seconds
        while True:
            self.require_running()
            with contextlib.suppress(ServerError):
                self.get_json("/system_stats")
                break
            if time.monotonic() > deadline:
                raise ServerError(
                    f"ComfyUI was not ready after {self._startup_seconds:.0f} s; it said:\n"
                    + self.log_tail()
                )
            time.sleep(0.2)
        if "(IMPORT FAILED)" in self._read_log():
            raise ServerError(f"ComfyUI could not import the pack; it said:\n{self.log_tail()}")

    def require_running(self) -> None:
        """Raise ServerError, with the end of its log, where the process has ended."""
        if self._process is None:
            raise ServerError("The server is not running: use it inside its `with` block.")
        code = self._process.poll()
        if code is not None:
            raise ServerError(f"ComfyUI ended with exit code {code}; it said:\n{self.log_tail()}")

    def _command(self) -> list[str]:
        database = (self.base / "user" / "comfyui.db").as_posix()
        return [
            *(str(self.python), "main.py", "--listen", LOCAL, "--port", str(self.port)),
            *("--disable-api-nodes", "--disable-auto-launch", "--preview-method", "auto"),
            *("--base-directory", str(self.base), "--database-url", f"sqlite:///{database}"),
            *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME),
            *self._arguments,
        ]


def checked(entry: dict[str, Any]) -> dict[str, Any]:
    """The history entry of a run that succeeded; any other raises."""
    status = entry.get("status") or {}
    messages = dict(status.get("messages", []))
    if failed := messages.get("execution_error"):
        node = f"node {failed['node_id']} ({failed['node_type']})"
        reason = f"{failed['exception_type']}: {failed['exception_message'].strip()}"
        raise ExecutionError(f"{node} failed: {reason}", failed)
    if stopped := messages.get("execution_interrupted"):
        raise ExecutionInterrupted(
            f"interrupted in node {stopped['node_id']} ({stopped['node_type']})"
        )
    if status.get("status_str") != "success":
        raise ServerError(f"the run ended as {status.get('status_str')}")
    return entry


def free_port() -> int:
    """A port of this machine that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])
