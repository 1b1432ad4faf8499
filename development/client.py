"""A ComfyUI server over HTTP, as everything here speaks to one."""

from __future__ import annotations

import json
from typing import Any

import requests

ANSWER_SECONDS = 60


class ServerError(Exception):
    """A server did not start, died, does not answer, or refused something."""


class Client:
    """One server; `error` is what is raised where it does not answer, or answers with one."""

    error: type[Exception] = ServerError

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = self.url.startswith("https")  # no proxy for servers beside us

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """What the server answers, be it a refusal."""
        try:
            return self.session.request(method, self.url + path, timeout=ANSWER_SECONDS, **options)
        except requests.RequestException as error:
            raise self.error(f"{self.url}{path} does not answer: {error}") from error

    def checked(
        self, method: str, path: str, expected: int = 200, **options: Any
    ) -> requests.Response:
        """An answer that is a success, or of the one other status that is expected."""
        answer = self.ask(method, path, **options)
        if not answer.ok and answer.status_code != expected:
            raise self.error(f"{self.url}{path} answers {answer.status_code}")
        return answer

    def get(self, path: str, **query: str) -> bytes:
        """What the server has under an address."""
        return self.checked("GET", path, params=query).content

    def get_json(self, path: str) -> Any:
        """One of the host's JSON pages, such as /system_stats."""
        return json.loads(self.get(path))

    def object_info(self) -> dict[str, Any]:
        """The host's description of every node it has."""
        return dict(self.get_json("/object_info"))

    def upload_image(self, name: str, data: bytes) -> str:
        """Put an image into the input folder and return the value for Load Image."""
        said = self.checked("POST", "/upload/image", files={"image": (name, data)},
                            data={"overwrite": "true"}).json()
        return "/".join(part for part in (said["subfolder"], said["name"]) if part)

    def images(self, run: dict[str, Any]) -> dict[str, list[bytes]]:
        """The image files that a finished run has saved or shown, by node id."""
        wanted = ("filename", "subfolder", "type")
        return {node: [self.get("/view", **{key: image.get(key, "") for key in wanted})
                       for image in output["images"]]
                for node, output in run["outputs"].items() if output.get("images")}


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
