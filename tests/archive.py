"""The registry's archive: the files of git that no pattern of .comfyignore names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def listed(*options: str) -> set[str]:
    """Files of this clone that git has or would take, narrowed by more options."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a clone and git")
    command = ["git", "ls-files", "-z", "--cached", "--others", *options]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in said.split("\0") if name and (ROOT / name).is_file()}


def shipped() -> set[str]:
    """The archive's files."""
    return listed("--exclude-standard") - listed("--ignored", "--exclude-from=.comfyignore")


def unpack(folder: Path) -> None:
    """Put the archive's files into a folder."""
    for name in shipped():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
