"""Who does the work: ComfyUI servers that we start, and those that run already."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from development.environment import ensure
from development.places import PACK_NAME, ROOT, link_pack, prepare_base
from development.server import Server, ServerError

from . import orphans, work
from .client import Client, WorkerLost
from .work import Job, Outcome

log = logging.getLogger("stylediffusion")
MOST_RESTARTS = 3
BACK_SECONDS, LOOK_SECONDS = 120.0, 3.0
METER_NAME = "stylediffusion_meter"
MODEL_FOLDERS = ("checkpoints", "clip_vision")


@dataclass(frozen=True)
class Start:
    """How own servers are started: where models lie, if not in ComfyUI's folder; with meters."""

    models: str = ""
    metered: bool = False
    arguments: Sequence[str] = ()


class UrlWorker:
    """A server that runs already. After a loss it has two minutes to come back."""

    def __init__(self, url: str) -> None:
        self.name, self.client = url, Client(url)

    def run(self, job: Job) -> list[Outcome]:
        """Run a job; raises WorkerLost."""
        if not self.client.nodes:
            self.client.connect()
        return work.run(self.client, job)

    def recover(self) -> bool:
        """Whether the server answers again."""
        until = time.monotonic() + BACK_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(WorkerLost):
                self.client.connect()
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def close(self) -> None:
        """Nothing: the server is not ours."""


class OwnServer(Server):
    """A server whose process can be named."""

    @property
    def pid(self) -> int:
        """The process; it runs between entering and leaving."""
        assert self._process is not None
        return self._process.pid


class OwnWorker:
    """A server of our own, started for the first job and again after a loss.

    With several GPUs the number chooses one.
    """

    def __init__(self, number: int, start: Start, alone: bool = True) -> None:
        self.name = f"worker {number + 1}"
        self.start, self.restarts = start, 0  # since the last job that was done
        self.arguments = [*start.arguments, *([] if alone else own_gpu(number))]
        self.stack = contextlib.ExitStack()
        self.server: Server | None = None
        self.client: Client | None = None

    def run(self, job: Job) -> list[Outcome]:
        """Run a job; raises WorkerLost."""
        if self.client is None:
            self.client = self._started()
        try:
            outcomes = work.run(self.client, job)
        except WorkerLost as error:
            raise WorkerLost(f"{error}; {self._last_words()}") from error
        self.restarts = 0
        return outcomes

    def recover(self) -> bool:
        """Stop what is left of it, to start it again with the next job."""
        self.close()
        self.restarts += 1
        return self.restarts <= MOST_RESTARTS

    def close(self) -> None:
        """Stop the server."""
        self.stack.close()
        self.client = self.server = None

    def _started(self) -> Client:
        environment = ensure()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="edits-")))
        base = prepare_base(folder, "server")
        arguments = [*self.arguments, *shared_models(base, self.start.models or environment.host)]
        if self.start.metered:
            link_pack(base / "custom_nodes" / METER_NAME, ROOT / "bench" / "meter")
            arguments += ["--whitelist-custom-nodes", PACK_NAME, METER_NAME]
        server = OwnServer(environment.python, environment.host, base, arguments=arguments)
        try:
            self.server = self.stack.enter_context(server)
        except ServerError as error:
            raise WorkerLost(str(error)) from error
        self.stack.enter_context(orphans.ended_with_us(server.pid, folder))
        client = Client(server.url)
        client.connect()
        return client

    def _last_words(self) -> str:
        try:
            if self.server is not None:
                self.server.require_running()
        except ServerError as error:
            return str(error)
        return "its process lives"


def shared_models(base: Path, models: str | Path) -> list[str]:
    """Arguments that have a server find models where they lie."""
    folder = Path(models).expanduser().absolute()
    folder = folder / "models" if (folder / "models").is_dir() else folder
    said = [f"  base_path: '{folder}'", *(f"  {name}: {name}" for name in MODEL_FOLDERS)]
    file = base / "models.yaml"
    file.write_text("\n".join(["edits:", *said]) + "\n", encoding="utf-8")
    return ["--extra-model-paths-config", str(file)]


def own_gpu(number: int) -> list[str]:
    """One GPU for each server, where there is more than one."""
    count = torch.cuda.device_count()
    return ["--cuda-device", str(number % count)] if count > 1 else []


def own_workers(count: int, start: Start) -> list[OwnWorker]:
    """Servers on this machine, which share its cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return [OwnWorker(number, start, count == 1) for number in range(count)]
