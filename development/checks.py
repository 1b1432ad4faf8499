"""The lint command: ruff, and the type checker over the pack and over these tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .environment import Environment, ensure
from .places import PACK_NAME, ROOT

PACK_ROOMS = ("stylediffusion", "nodes", "demo")
TOOL_FILES = ("dev.py", "development", "bench", "edits", "gallery", "reference", "training")


def run(environment: Environment) -> int:
    """Run all checks, print what each says, and return 0 if all passed.

    The pack is checked through its link in a base directory: there it has its fixed name, and its
    relative imports and its folder `nodes` mean what they mean inside ComfyUI.
    """
    custom_nodes = environment.base_directory("lint") / "custom_nodes"
    packages = [part for room in PACK_ROOMS for part in ("-p", f"{PACK_NAME}.{room}")]
    mypy = ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir"]
    cache = str(environment.cache / "mypy")
    tools = ["--explicit-package-bases", "--follow-imports", "silent", *TOOL_FILES]
    codes = [
        _check(environment, "ruff", ["ruff", "check", "."], ROOT),
        _check(environment, "types of the pack", [*mypy, cache, *packages], custom_nodes),
        _check(environment, "types of the tools", [*mypy, cache + "-tools", *tools], ROOT),
    ]
    return max(codes)


def _check(environment: Environment, title: str, module: list[str], directory: Path) -> int:
    print(f"{title}: ", end="", flush=True)
    command = [str(environment.python), "-m", *module]
    return subprocess.run(command, cwd=directory, env=environment.variables()).returncode


if __name__ == "__main__":
    sys.exit(run(ensure()))
