"""Spreads jobs over workers: a lost worker's job goes to another, and nothing is written twice."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from .client import WorkerLost
from .rows import Failure
from .work import Job, Outcome, failed

log = logging.getLogger("stylediffusion")
MOST_LOSSES = 3
LOOK_SECONDS = 0.5

Settle = Callable[[Job, list[Outcome]], None]


class Worker(Protocol):
    """Does one job at a time. `run` raises WorkerLost; then `recover` says whether it is back."""

    name: str

    def run(self, job: Job) -> list[Outcome]: ...

    def recover(self) -> bool: ...

    def close(self) -> None: ...


class Unfinished(Exception):
    """No worker is left, and jobs are."""


class Engine:
    """Jobs that wait, and how often each has lost its worker.

    `settle(job, outcomes)` is called once a job, by one thread at a time.
    """

    def __init__(self, jobs: Sequence[Job], settle: Settle) -> None:
        self.waiting = deque(enumerate(jobs))
        self.left = len(jobs)
        self.losses: dict[int, int] = {}
        self.settle = settle
        self.changed = threading.Condition()
        self.error: BaseException | None = None

    def run(self, workers: Sequence[Worker]) -> None:
        """Until all is settled; raises Unfinished where all workers are lost before."""
        threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True)
                   for worker in workers]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(LOOK_SECONDS)  # short, so that Ctrl-C is heard
        finally:
            with self.changed:
                self.waiting.clear()
            for worker in workers:
                worker.close()
        if self.error is not None:
            raise self.error
        if self.left:
            raise Unfinished(f"no worker is left, and {self.left} pictures are not done; the same "
                             "command goes on from here")

    def _serve(self, worker: Worker) -> None:
        """One worker's thread."""
        try:
            while (taken := self._take()) is not None:
                number, job = taken
                try:
                    outcomes = worker.run(job)
                except WorkerLost as error:
                    log.warning("%s is lost: %s", worker.name, error)
                    self._lost(number, job, error)
                    if not worker.recover():
                        return
                else:
                    self._settled(job, outcomes)
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
                self.left = 0
                self.changed.notify_all()

    def _take(self) -> tuple[int, Job] | None:
        """The next job; waits while others may still give one back. None once all is settled."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or not self.left)
            return self.waiting.popleft() if self.left else None

    def _lost(self, number: int, job: Job, error: WorkerLost) -> None:
        with self.changed:
            self.losses[number] = self.losses.get(number, 0) + 1
            if self.losses[number] < MOST_LOSSES:
                self.waiting.appendleft((number, job))
                self.changed.notify()
                return
        said = f"its worker was lost {MOST_LOSSES} times, at last so: {error}"
        self._settled(job, [failed(entry, said) for entry in job.entries])

    def _settled(self, job: Job, outcomes: list[Outcome]) -> None:
        with self.changed:
            self.settle(job, outcomes)
            self.left -= 1
            self.changed.notify_all()


def failures(outcomes: Sequence[Outcome]) -> list[Failure]:
    """Those of the outcomes that are none."""
    return [outcome for outcome in outcomes if isinstance(outcome, Failure)]
