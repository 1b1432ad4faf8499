"""Ends a server and clears its folder once whoever started it is gone, killed without a word.

    python orphans.py PID FOLDER        with a pipe as input, which closes when its other end dies
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def ended_with_us(pid: int, folder: Path) -> Iterator[None]:
    """Until the end of the block a process and a folder do not outlive ours."""
    watcher = subprocess.Popen(
        [sys.executable, __file__, str(pid), str(folder)], stdin=subprocess.PIPE,
        start_new_session=True)  # a Ctrl-C at the console is not for it
    try:
        yield
    finally:
        watcher.kill()
        watcher.communicate()


def main() -> None:
    """Wait for the pipe to close."""
    pid, folder = int(sys.argv[1]), sys.argv[2]
    sys.stdin.read()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
