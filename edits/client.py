"""A ComfyUI server as a batch of work needs it: own prompt ids, polling, and more than one try."""

from __future__ import annotations

import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import Retry

from development import client
from development.client import describe_refusal

from .graphs import Prompt

FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 2.0
AGAIN = Retry(total=3, backoff_factor=0.5, allowed_methods=None)  # at once, after 1 s, after 2 s
FINISHED = ("completed", "failed", "cancelled")
NOT_FOUND, BAD_REQUEST = 404, 400


class WorkerLost(Exception):
    """The server is gone, or has forgotten what it was asked for; the work is another's now."""


class Refused(Exception):
    """What a node, or the host's validation, says against a prompt."""


class Client(client.Client):
    """One server. Every method raises WorkerLost where it does not answer."""

    error = WorkerLost
    nodes: frozenset[str] = frozenset()

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.session.mount(self.url, HTTPAdapter(max_retries=AGAIN))

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
        answer = self.checked("GET", f"/api/jobs/{prompt_id}", NOT_FOUND)
        return None if answer.status_code == NOT_FOUND else dict(answer.json())

    def queue(self, prompt: Prompt, prompt_id: str) -> None:
        """Queue a prompt under our id; raises Refused where any of it is wrong."""
        body = {"prompt": prompt, "prompt_id": prompt_id}
        said = self.checked("POST", "/prompt", BAD_REQUEST, json=body).json()
        if said.get("error") or said.get("node_errors"):
            if "prompt_id" in said:  # the outputs that are right would run
                self.ask("POST", f"/api/jobs/{prompt_id}/cancel")
            lines = describe_refusal(said.get("error"), said.get("node_errors"))
            raise Refused(" ".join(lines.split()))


def said_by(job: dict[str, Any]) -> str:
    """The message of the node that failed."""
    error = job.get("execution_error") or {}
    if not error:
        return f"the run ended as {job['status']}"
    said = " ".join(str(error.get("exception_message", "")).split())
    return f"{error.get('node_type')}: {said}"
