"""A table under some methods: what is left of it, and doing that with progress."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from .engine import Engine, Worker
from .folder import Folder
from .graphs import Entry, Settings
from .measuring import Measure, measure
from .methods import Method
from .rows import Table
from .work import Job, Outcome, Picture, digest_of

TABLE_SECONDS = 20.0


class Run:
    """All edits of a table under all methods, in one output folder."""

    def __init__(
        self, table: Table, methods: Sequence[Method], settings: Settings, out: Path,
        measured: Measure = measure, by_method: bool = False,
    ) -> None:
        self.entries = [Entry(row, method) for row in table.rows for method in methods]
        self.failures = list(table.failures)
        self.folder = Folder(out, by_method or len(methods) > 1)
        self.settings, self.measure = settings, measured
        self.written = 0.0

    def jobs(self) -> list[list[Job]]:
        """What is not finished: for each picture its jobs, one for all that learn the same."""
        groups: dict[Hashable, dict[Hashable, list[tuple[Entry, str]]]] = {}
        for entry in self.entries:
            digest = digest_of(entry, self.settings)
            if not self.folder.finished(entry, digest):
                own = groups.setdefault((entry.row.image, entry.row.prompt), {})
                same = (entry.method.learning, entry.method.inversion)
                own.setdefault(same, []).append((entry, digest))
        return [[Job(tuple(entry for entry, _ in group), self.settings,
                     tuple(digest for _, digest in group), self.measure)
                 for group in own.values()] for own in groups.values()]

    def finish(self, workers: Sequence[Worker]) -> int:
        """Do what is left; 1 where a row failed, which failures.csv says."""
        jobs = self.jobs()
        left = sum(len(job.entries) for own in jobs for job in own)
        done = len(self.entries) - left
        print(f"{len(self.entries)} edits, of which {done} are done, into {self.folder.path}",
              flush=True)
        with tqdm(total=len(self.entries), initial=done, unit="edit", mininterval=1) as bar:

            def settle(job: Job, outcomes: list[Outcome]) -> None:
                self._settle(outcomes)
                bar.update(len(job.entries))

            try:
                Engine(jobs, settle).run(workers)
            finally:
                self.folder.write_tables(self.entries, self.failures)
        return self._said()

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Picture):
                self.folder.write(outcome)
            else:
                self.failures.append(outcome)
        if time.monotonic() - self.written > TABLE_SECONDS:
            self.folder.write_tables(self.entries, self.failures)
            self.written = time.monotonic()

    def _said(self) -> int:
        if not self.failures:
            return 0
        first = self.failures[0]
        told = f"{first.row}: {first.message}".encode(errors="backslashreplace").decode()
        print(f"{len(self.failures)} rows failed; {self.folder.path / 'failures.csv'} says why. "
              f"The first, {told}")
        return 1
