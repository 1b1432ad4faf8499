"""The real ComfyUI as a child process, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .device import OPTION, host_arguments
from .places import PACK_NAME, clean_variables

Progress = Callable[[str, float, float], None]
LOCAL = "127.0.0.1"
STOP_SECONDS = 10.0
LOG_TAIL_LINES = 25
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(Exception):
    """The server did not start, died, or refused something."""


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


class Server:
    """A ComfyUI server with this pack as its only custom node, for the length of a `with` block.

    `base` is a directory from Environment.base_directory; models, input and output lie in it. The
    server's console goes to `log`, by default server.log in `base`. With `cpu` None it works where
    the other programs of this project do.
    """

    def __init__(
        self,
        python: Path,
        host: Path,
        base: Path,
        *,
        cpu: bool | None = None,
        port: int | None = None,
        log: Path | None = None,
        arguments: Sequence[str] = (),
        startup_seconds: float = 240.0,
    ) -> None:
        self.python, self.host, self.base = python, host, base
        self.port = port or free_port()
        self.url = f"http://{LOCAL}:{self.port}"
        self.log = log or base / "server.log"
        self.client_id = uuid.uuid4().hex
        where = host_arguments(python) if cpu is None else [OPTION] if cpu else []
        self._arguments = [*where, *arguments]
        self._startup_seconds = startup_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.host,
                env=clean_variables(PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C at the console is for the caller, who then stops the server in order.
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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

    def object_info(self) -> dict[str, Any]:
        """The host's description of every node it has."""
        info: dict[str, Any] = self.get_json("/object_info")
        return info

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queue an API-format prompt and return its id; saved images carry `workflow` if given.

        A prompt that is wrong anywhere is refused whole with PromptRejected, where the host alone
        would run the outputs it can.
        """
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        body = {"prompt": prompt, "client_id": self.client_id, "extra_data": extra}
        try:
            answer = json.loads(self._request("/prompt", json.dumps(body).encode()))
        except urllib.error.HTTPError as error:
            refusal = json.loads(error.read())
            message = describe_refusal(refusal.get("error"), refusal.get("node_errors"))
            raise PromptRejected(message, refusal.get("node_errors") or {}) from None
        prompt_id = str(answer["prompt_id"])
        if answer["node_errors"]:
            self._post("/queue", {"delete": [prompt_id]})
            self.interrupt(prompt_id)
            message = describe_refusal(None, answer["node_errors"])
            raise PromptRejected(message, answer["node_errors"])
        return prompt_id

    def wait(self, prompt_id: str, progress: Progress | None = None) -> dict[str, Any]:
        """Wait for a queued prompt and return its history entry.

        `progress(node_id, value, maximum)` is called from this thread, for a node's start and for
        each of its steps; it needs aiohttp, which the host's own Python has.
        """
        with contextlib.ExitStack() as stack:
            events: Callable[[], list[tuple[str, float, float]]] | None = None
            if progress is not None:
                from .progress import ProgressReader

                reader = stack.enter_context(ProgressReader(self.url, self.client_id, prompt_id))
                events = reader.take
            while True:
                entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
                if progress is not None and events is not None:
                    for event in events():
                        progress(*event)
                if entry is not None:
                    return checked(entry)
                time.sleep(0.1)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt the running prompt, or this one only."""
        self._post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def forget(self) -> None:
        """Make the next prompt run every node again."""
        self._post("/free", {"unload_models": False, "free_memory": True})

    def images(self, entry: dict[str, Any]) -> dict[str, list[bytes]]:
        """The image files a finished prompt has saved or shown, by node id."""
        found: dict[str, list[bytes]] = {}
        for node_id, output in entry["outputs"].items():
            for image in output.get("images", []):
                keys = ("filename", "subfolder", "type")
                query = urllib.parse.urlencode({key: image.get(key, "") for key in keys})
                found.setdefault(node_id, []).append(self._request(f"/view?{query}"))
        return found

    def upload_image(self, name: str, data: bytes) -> str:
        """Put an image into the input folder and return the value for Load Image."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        answer = json.loads(self._request("/upload/image", body, kind))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def get_json(self, path: str) -> Any:
        """Fetch one of the host's JSON pages, such as /system_stats."""
        return json.loads(self._request(path))

    def log_tail(self) -> str:
        """The last lines the server has written, as any console can show them."""
        lines = COLOUR.sub("", self._read_log()).splitlines()
        return "\n".join("    " + line for line in lines[-LOG_TAIL_LINES:])

    def _read_log(self) -> str:
        return self.log.read_text(encoding="ascii", errors="replace").replace("\ufffd", "?")

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._request(path, json.dumps(body).encode())

    def _request(
        self, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        try:
            with NO_PROXY.open(request, timeout=60) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            self.require_running()
            raise ServerError(f"ComfyUI does not answer at {self.url}{path}: {error}") from error

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._startup_seconds
        while True:
            self.require_running()
            with contextlib.suppress(ServerError, urllib.error.HTTPError):
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


def cached_nodes(entry: dict[str, Any]) -> set[str]:
    """The ids of the nodes a finished prompt took from the host's cache."""
    messages = dict(entry["status"]["messages"])
    return set(messages.get("execution_cached", {}).get("nodes", []))


def describe_refusal(error: Any, node_errors: dict[str, Any] | None) -> str:
    """The host's validation errors as lines a person can act on."""
    top = error if isinstance(error, dict) else {}
    first = " - ".join(str(top[key]) for key in ("message", "details") if top.get(key))
    lines = [f"ComfyUI refused the graph: {first or error or 'some of its nodes are wrong'}"]
    for node_id, found in (node_errors or {}).items():
        for single in found["errors"]:
            reason = " - ".join(single[key] for key in ("message", "details") if single.get(key))
            lines.append(f"  node {node_id} ({found['class_type']}): {reason}")
    return "\n".join(lines)


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((LOCAL, port)) != 0


def free_port() -> int:
    """A port of this machine that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        port: int = probe.getsockname()[1]
        return port
