"""A server of ours does not outlive the program that started it."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

STARTS = """
import subprocess, sys, time
from pathlib import Path
from edits.orphans import ended_with_us
sleeper = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
with ended_with_us(sleeper.pid, Path(sys.argv[1])):
    print(sleeper.pid, flush=True)
    if sys.argv[2] == "waits":
        time.sleep(600)
print("left", flush=True)
"""


def started(folder: Path, how: str) -> tuple[subprocess.Popen[str], int]:
    program = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    return program, int(program.stdout.readline())


def test_a_program_that_is_killed_takes_its_server_and_folder_along(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    program, pid = started(folder, "waits")
    program.kill()
    program.communicate()
    until = time.monotonic() + 30
    while (folder.exists() or psutil.pid_exists(pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def test_after_the_block_nothing_is_ended(tmp_path: Path) -> None:
    program, pid = started(tmp_path, "leaves")
    program.communicate()
    time.sleep(0.3)
    assert tmp_path.exists()
    psutil.Process(pid).kill()
