"""Runs pip: its output in a log, a heartbeat on the console, its failures in one sentence."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from .steps import Report, SetupError

POLL_SECONDS = 0.25
HEARTBEAT_SECONDS = 20.0
FULL_BYTES = 500e6
ACTIVITY = re.compile(
    rb"^ *((?:Collecting|Downloading|Building) [!-~]+|Installing collected packages)", re.MULTILINE
)
UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|getaddrinfo failed|ProxyError"
    r"|ConnectTimeout|ReadTimeout|Network is unreachable|Connection (?:refused|reset|broken)"
    r"|RemoteDisconnected|Could not fetch URL|SSLError|No route to host",
)
FULL_DISK = re.compile(r"No space left on device|\[WinError 112\]|Errno 28\b|Errno 122\b")
NO_VENV = re.compile(r"No module named '?(?:venv|ensurepip)|ensurepip is not available")
NOT_FOUND = re.compile(r"No matching distribution found for (\S+)")


class Installer:
    """Commands of one set-up: logged to one file, temporary files beside it, failures told."""

    def __init__(self, directory: Path, report: Report) -> None:
        self.directory = directory
        self.log = directory / "setup.log"
        self.report = report
        self._least_free = math.inf

    def run(self, command: Sequence[str | Path], what: str) -> None:
        """Run one command; `what` names it in the sentence of a failure."""
        temporary = self.directory / "temporary"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with open(self.log, "ab") as log:
            log.write(f"\n== {time.ctime()}: {what}\n".encode())
            log.flush()
            start = log.tell()
            code = self._wait([str(part) for part in command], log, start, temporary)
        if code != 0:
            with open(self.log, "rb") as log:
                log.seek(start)
                said = log.read().decode(errors="replace")
            # On a full disk the program's own words are lost, and it frees its temporary files.
            full = self._least_free < FULL_BYTES
            raise SetupError(explain(said, what, self.log, full))

    def pip(self, python: Path, *arguments: str | Path, what: str) -> None:
        """Run pip of `python`."""
        self.run([python, "-m", "pip", "--no-input", *arguments], what)

    def _wait(self, command: list[str], log: IO[bytes], start: int, temporary: Path) -> int:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=clean_variables(TMPDIR=str(temporary), TEMP=str(temporary), PIP_USER="0"),
            close_fds=False,  # the set-up's lock is inherited (steps.locked)
        )
        try:
            return self._beat(process, start)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            shutil.rmtree(temporary, ignore_errors=True)

    def _beat(self, process: subprocess.Popen[bytes], start: int) -> int:
        console = sys.stdout.isatty()
        begun = told = time.monotonic()
        self._least_free = math.inf
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            self._least_free = min(self._least_free, shutil.disk_usage(self.directory).free)
            if process.returncode is not None:
                if console:
                    print("\r" + " " * 79 + "\r", end="", flush=True)
                return process.returncode
            now = time.monotonic()
            line = f"      {now - begun:4.0f} s  {self._activity(start)}"
            if console:
                print("\r" + line.ljust(79)[:79], end="", flush=True)
            elif now - told >= HEARTBEAT_SECONDS:
                told = now
                self.report(line.rstrip())

    def _activity(self, start: int) -> str:
        with open(self.log, "rb") as log:
            log.seek(max(start, log.seek(0, os.SEEK_END) - 20_000))
            found = ACTIVITY.findall(log.read())
        return found[-1].decode("ascii")[:64] if found else ""


def clean_variables(**extra: str) -> dict[str, str]:
    """This process's environment without what would lead another Python astray, plus `extra`."""
    astray = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {name: value for name, value in os.environ.items() if name not in astray}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1", **extra}


def explain(said: str, what: str, log: Path, full: bool) -> str:
    """The one sentence for a command that failed, from what it said."""
    details = f"(everything that was said: {log})"
    missing = NOT_FOUND.search(said)
    if full or FULL_DISK.search(said):
        return f"The disk became full while {what}: free some space and run it again {details}."
    if UNREACHABLE.search(said):
        return (
            f"The package index could not be reached while {what}: connect to the network and"
            f" run it again {details}."
        )
    if NO_VENV.search(said):
        return (
            "This Python has no venv module: install it (on Debian and Ubuntu the package"
            f" python3-venv of the same version) and run it again {details}."
        )
    if missing:
        return (
            f"The package index gave no {missing[1]} for this Python and platform: see whether it"
            f" can be reached, and run it again {details}."
        )
    return f"Something failed while {what}; run it again, and if it stays, see why {details}."


def unpack(archive: Path, folder: str, destination: Path) -> None:
    """Write the regular files below `folder` of a source archive to `destination`.

    Links and special files are left out and a name that leads elsewhere is an error; tarfile's
    own filter would do, but Python 3.10 and 3.11 have it only in their later patches.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = Path(member.name).parts[1:]
            prefix = Path(folder).parts
            if not member.isfile() or parts[: len(prefix)] != prefix:
                continue
            inside = Path(*parts[len(prefix) :])
            if ".." in inside.parts or inside.is_absolute():
                raise SetupError(f"{archive.name} has a file with an unsafe name: {member.name}.")
            source = tar.extractfile(member)
            if source is not None:
                target = destination / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, open(target, "wb") as written:
                    written.write(source.read())
