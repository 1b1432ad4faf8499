"""Workers on a Ray cluster (https://ray.io, the optional extra `ray`): an actor a server.

The clone and its environment have to be at the same place on every machine; pictures travel.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from development.places import ROOT

from .client import WorkerLost
from .engine import Worker
from .work import Job, Outcome
from .workers import OwnWorker, Start

LOCAL, STOP_SECONDS = "local", 30
BACK_SECONDS, LOOK_SECONDS = 600.0, 1.0
MISSING = "Ray is not installed; install it beside ComfyUI with: pip install ray"


class RayWorker:
    """An actor that owns a server. Ray starts it again when it dies."""

    def __init__(self, number: int, start: Start, gpus: int, kind: type[Worker]) -> None:
        import ray

        self.name = f"actor {number + 1}"
        actor = ray.remote(max_restarts=-1, num_cpus=1, num_gpus=gpus)(kind)
        self.actor = actor.remote(number, start)

    def run(self, job: Job) -> list[Outcome]:
        """Run a job; raises WorkerLost where the actor, or its server, died."""
        import ray

        try:
            found: list[Outcome] = ray.get(self.actor.run.remote(job.with_files()))
            return found
        except ray.exceptions.RayActorError as error:
            raise WorkerLost(f"its process died: {error}") from error

    def recover(self) -> bool:
        """An actor that lives starts its server again; for a dead one Ray has ten minutes."""
        import ray

        until = time.monotonic() + BACK_SECONDS
        while time.monotonic() < until:
            try:
                return bool(ray.get(self.actor.recover.remote()))
            except ray.exceptions.RayActorError:
                time.sleep(LOOK_SECONDS)
        return False

    def close(self) -> None:
        """Stop the server, then the actor."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            ray.get(self.actor.close.remote(), timeout=STOP_SECONDS)
        ray.kill(self.actor)


def ray_workers(
    address: str, count: int, start: Start, kind: type[Worker] = OwnWorker
) -> list[RayWorker]:
    """Actors on the cluster at `address`, or on one of our own for "local"; 0 is one a GPU.

    Raises ValueError where Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError(MISSING) from None
    where: dict[str, Any] = {} if address == LOCAL else {"address": address}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(**where, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False,
             include_dashboard=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return [RayWorker(number, start, 1 if gpus else 0, kind)
            for number in range(count or gpus or 1)]
