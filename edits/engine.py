"""Spreads jobs over workers: a lost worker's job goes to another, and nothing is written twice."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from .client import WorkerLost
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
    """Pictures that wait, each with its jobs, which one worker does one after the other.

    `settle(job, outcomes)` is called once a job, by one thread at a time.
    """

    def __init__(self, pictures: Sequence[Sequence[Job]], settle: Settle) -> None:
        self.waiting = deque(deque(jobs) for jobs in pictures)
        self.left = sum(len(jobs) for jobs in pictures)
        self.losses: Counter[tuple[str, ...]] = Counter()
        self.settle = settle
        self.changed = threading.Condition()
        self.stopped = False
        self.error: BaseException | None = None

    def run(self, workers: Sequence[Worker]) -> None:
        """Until all is settled; raises Unfinished where all workers are lost before."""
        threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True)
                   for worker in workers]
        for thread in threads:
            thread.start()
        try:
            with self.changed:
                while self.left and not self.stopped and any(t.is_alive() for t in threads):
                    self.changed.wait(LOOK_SECONDS)  # short, so that Ctrl-C is heard
        finally:
            self._stop()
            for worker in workers:
                worker.close()
        if self.error is not None:
            raise self.error
        if self.left:
            raise Unfinished(f"no worker is left, and {self.left} jobs are not done; the same "
                             "command goes on from here")

    def _serve(self, worker: Worker) -> None:
        """One worker's thread."""
        try:
            while (jobs := self._take()) is not None:
                if not self._finished(worker, jobs):
                    return
        except BaseException as error:
            self._stop(error)

    def _finished(self, worker: Worker, jobs: deque[Job]) -> bool:
        """Whether the worker is still there after the jobs of a picture."""
        while jobs and not self.stopped:
            try:
                outcomes = worker.run(jobs[0])
            except WorkerLost as error:
                log.warning("%s is lost: %s", worker.name, error)
                self._lost(jobs, error)
                return not self.stopped and worker.recover()
            self._settled(jobs.popleft(), outcomes)
        return True

    def _take(self) -> deque[Job] | None:
        """The next picture; waits while others may still give one back. None once all is done."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or not self.left or self.stopped)
            return self.waiting.popleft() if self.waiting and not self.stopped else None

    def _lost(self, jobs: deque[Job], error: WorkerLost) -> None:
        """Give back what is left of a picture, without a job that has lost too many workers."""
        with self.changed:
            self.losses[jobs[0].digests] += 1
            if self.losses[jobs[0].digests] == MOST_LOSSES:
                job = jobs.popleft()
                said = f"its worker was lost {MOST_LOSSES} times, at last so: {error}"
                self._settled(job, [failed(entry, said) for entry in job.entries])
            if jobs:
                self.waiting.appendleft(jobs)
                self.changed.notify()

    def _settled(self, job: Job, outcomes: list[Outcome]) -> None:
        with self.changed:
            self.settle(job, outcomes)
            self.left -= 1
            self.changed.notify_all()

    def _stop(self, error: BaseException | None = None) -> None:
        with self.changed:
            self.error = self.error or error
            self.stopped = True
            self.changed.notify_all()
