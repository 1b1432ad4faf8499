"""Set-up as a list of steps that can be interrupted anywhere and is repaired by the next run."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Report = Callable[[str], None]
LOCK_BYTE = 1 << 30  # far from what is written: Windows refuses to read what is locked


class SetupError(Exception):
    """What keeps the set-up from finishing, in one sentence for the person at the console."""


@dataclass(frozen=True)
class Step:
    """One piece of work inside `folder`; `proof` is a file there without which it is not done."""

    name: str
    title: str
    folder: str
    proof: str
    gigabytes: float
    work: Callable[[], None]


class StepList:
    """Runs steps in order inside one directory and remembers which of them are done.

    A step is marked as begun before its work and as done after it. A step found begun, or done
    without its proof, makes its whole folder suspect: the folder and its marks are removed.
    """

    def __init__(self, directory: Path, steps: Sequence[Step]) -> None:
        self.directory = directory
        self.steps = steps

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(self._is_done(step) for step in self.steps)

    def run(self, report: Report) -> None:
        """Do what is missing, alone among all processes that use this directory."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with locked(self.directory / "lock", report):
                self._remove_suspects(report)
                self._check_space()
                self._do_missing(report)
        except OSError as error:
            raise SetupError(sentence_for(error, self.directory)) from error

    def _do_missing(self, report: Report) -> None:
        (self.directory / "marks").mkdir(exist_ok=True)
        for number, step in enumerate(self.steps, 1):
            if self._is_done(step):
                continue
            report(f"[{number}/{len(self.steps)}] {step.title}")
            self._mark(step, "begun").touch()
            step.work()
            self._mark(step, "begun").replace(self._mark(step, "done"))

    def _remove_suspects(self, report: Report) -> None:
        folders = {step.folder for step in self.steps if self._is_suspect(step)}
        if folders:
            report("The last set-up did not finish; its unfinished parts are made anew.")
        for step in self.steps:
            if step.folder in folders:
                if (self.directory / step.folder).exists():
                    shutil.rmtree(self.directory / step.folder)
                for state in ("done", "begun"):
                    with contextlib.suppress(FileNotFoundError):
                        self._mark(step, state).unlink()

    def _check_space(self) -> None:
        needed = sum(step.gigabytes for step in self.steps if not self._is_done(step))
        free = shutil.disk_usage(self.directory).free / 1e9
        if free < needed:
            raise SetupError(
                f"Not enough disk space: the set-up needs {needed:.1f} GB in {self.directory} and"
                f" {free:.1f} GB are free (STYLEDIFFUSION_CACHE moves it to another disk)."
            )

    def _mark(self, step: Step, state: str) -> Path:
        return self.directory / "marks" / f"{step.name}.{state}"

    def _is_done(self, step: Step) -> bool:
        proof = self.directory / step.folder / step.proof
        return self._mark(step, "done").exists() and proof.exists()

    def _is_suspect(self, step: Step) -> bool:
        begun = self._mark(step, "begun").exists()
        return begun or (self._mark(step, "done").exists() and not self._is_done(step))


def sentence_for(error: OSError, directory: Path) -> str:
    """Tell an operating-system error as one sentence with its remedy."""
    if error.errno == errno.ENOSPC:
        return f"The disk is full: free some space for {directory} and run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename or directory} cannot be written (STYLEDIFFUSION_CACHE moves it)."
    return f"The set-up in {directory} failed: {error}."


@contextlib.contextmanager
def locked(path: Path, report: Report, poll_seconds: float = 0.5) -> Iterator[None]:
    """Hold the system's lock on `path`, waiting for another process that holds it.

    The system drops it with the last process that has the file open, so no lock is ever stale.
    Except on Windows, programs started meanwhile inherit it, so a pip that outlives dev.py still
    keeps others out.
    """
    with open(path, "a+", encoding="ascii") as handle:
        told = False
        while not _try_lock(handle):
            if not told:
                handle.seek(0)
                owner = handle.read(20).strip() or "unknown"
                report(f"Another set-up is running (process {owner}); waiting for it to end.")
                told = True
            time.sleep(poll_seconds)
        os.set_inheritable(handle.fileno(), True)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _try_lock(handle: IO[str]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        # A byte past the end, because a locked byte could not be read for the owner's number.
        handle.seek(LOCK_BYTE)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
