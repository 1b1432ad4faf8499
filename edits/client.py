"""A ComfyUI server over HTTP, as a batch of work needs it: own prompt ids, and polling."""

from __future__ import annotations

import time
from typing import Any

import requests

from .graphs import Prompt

TRIES, TRY_AGAIN_SECONDS = 3, 1.0
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 2.0
ANSWER_SECONDS = 60
FINISHED = ("completed", "failed", "cancelled")
NOT_FOUND, BAD_REQUEST = 404, 400


class WorkerLost(Exception):
    """The server is gone, or has forgotten what it was asked for; the work is another's now."""


class Refused(Exception):
    """What a node, or the host's validation, says against a prompt."""


class Client:
    """One server. Every method raises WorkerLost where it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = self.url.startswith("https")  # no proxy for servers beside us
        self.nodes: frozenset[str] = frozenset()

    def connect(self) -> None:
        """Ask the server which nodes it has."""
        self.nodes = frozenset(self.object_info())

    def run(self, prompt: Prompt, prompt_id: str) -> dict[str, Any]:
        """Queue the prompt, unless the server knows it already, and wait: the finished job.

        Raises Refused with the node's or the host's own message.
        """
        job = self.job(prompt_id)
        if job is None or job["status"] in FINISHED[1:]:
            self.queue(prompt, prompt_id)
            job = None
        pause = FIRST_POLL_SECONDS
        while job is None or job["status"] not in FINISHED:
            time.sleep(pause)
            pause = min(pause * 1.2, LONGEST_POLL_SECONDS)
            job = self.job(prompt_id)
            if job is None:
                raise WorkerLost(f"{self.url} has forgotten the prompt it was running")
        if job["status"] != "completed":
            raise Refused(said_by(job))
        return job

    def job(self, prompt_id: str) -> dict[str, Any] | None:
        """What the server knows of a prompt; None where it does not know it."""
        answer = self._ask("GET", f"/api/jobs/{prompt_id}")
        if answer.status_code == NOT_FOUND:
            return None
        found: dict[str, Any] = self._checked(answer).json()
        return found

    def queue(self, prompt: Prompt, prompt_id: str) -> None:
        """Queue a prompt under our id; raises Refused where any of it is wrong."""
        body = {"prompt": prompt, "prompt_id": prompt_id}
        answer = self._ask("POST", "/prompt", json=body)
        if answer.status_code not in (200, BAD_REQUEST):
            self._checked(answer)
        said = answer.json()
        if said.get("error") or said.get("node_errors"):
            if "prompt_id" in said:  # the outputs that are right would run
                self._ask("POST", f"/api/jobs/{prompt_id}/cancel")
            raise Refused(refusal(said))

    def upload(self, name: str, data: bytes) -> str:
        """Put a picture into the input folder; what Load Image calls it."""
        answer = self._checked(self._ask(
            "POST", "/upload/image", files={"image": (name, data)}, data={"overwrite": "true"}))
        said = answer.json()
        return "/".join(part for part in (said["subfolder"], said["name"]) if part)

    def pictures(self, job: dict[str, Any], node: str) -> list[bytes]:
        """The image files that a node of a finished job has shown."""
        shown = job["outputs"][node]["images"]
        return [self._checked(self._ask("GET", "/view", params={
            key: image.get(key, "") for key in ("filename", "subfolder", "type")})).content
            for image in shown]

    def text(self, job: dict[str, Any], node: str) -> str:
        """The text that a node of a finished job has shown."""
        return str(job["outputs"][node]["text"][0])

    def object_info(self) -> dict[str, Any]:
        """The host's description of every node it has."""
        info: dict[str, Any] = self._checked(self._ask("GET", "/object_info")).json()
        return info

    def _ask(self, how: str, path: str, **what: Any) -> requests.Response:
        for left in reversed(range(TRIES)):
            try:
                return self.session.request(
                    how, self.url + path, timeout=ANSWER_SECONDS, **what)
            except requests.RequestException as error:
                if not left:
                    raise WorkerLost(f"{self.url} does not answer: {error}") from error
                time.sleep(TRY_AGAIN_SECONDS)
        raise AssertionError("unreachable")

    def _checked(self, answer: requests.Response) -> requests.Response:
        if not answer.ok:
            what = answer.request.path_url
            raise WorkerLost(f"{self.url} answers {answer.status_code} to {what}")
        return answer


def said_by(job: dict[str, Any]) -> str:
    """The message of the node that failed."""
    error = job.get("execution_error") or {}
    if not error:
        return f"the run ended as {job['status']}"
    said = " ".join(str(error.get("exception_message", "")).split())
    return f"{error.get('node_type')}: {said}"


def refusal(said: dict[str, Any]) -> str:
    """The host's validation errors in one line."""
    found = [f"{node['class_type']}: {single.get('details') or single.get('message')}"
             for node in (said.get("node_errors") or {}).values() for single in node["errors"]]
    error = said.get("error")
    top = error.get("message") if isinstance(error, dict) else error
    return " ".join("; ".join(found or [str(top)]).split())
