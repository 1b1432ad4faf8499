"""What the pack adds to the host's start: its import, in a host that has its own nodes already.

    python -m bench.start [--json FILE] [--processes N]

Each time is taken in a fresh process, through the host's own loader and with every module that the
host loads by itself (its built-in nodes, its reader of pyproject.toml) there before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 7
GOAL_SECONDS = 0.3
SHOWN = 8
MARK = "-- the pack begins"
LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| *(\S.*)$")


async def load_the_pack() -> dict[str, Any]:
    """The seconds that the host's loader takes, and the modules that came with the pack."""
    import nodes as host

    importlib.import_module("comfy_config.config_parser")  # a first custom node brings it anyway
    await host.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    before = set(sys.modules)
    print(MARK, file=sys.stderr, flush=True)
    begun = time.perf_counter()
    loaded = await host.load_custom_node(str(ROOT))
    seconds = time.perf_counter() - begun
    if not loaded:
        raise SystemExit("The host could not load the pack.")
    return {"seconds": seconds, "modules": sorted(set(sys.modules) - before)}


def fresh(*options: str) -> tuple[dict[str, Any], str]:
    """What a process of its own found, and what it wrote to its second channel."""
    command = [sys.executable, *options, "-m", "bench.start", "--inside"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, done.stderr


def own_name(module: str) -> str:
    """A module's name; the host calls the pack's by their path, of which the pack's part stays."""
    folder = str(ROOT).replace(".", "_x_")
    return "stylediffusion pack" + module[len(folder):] if module.startswith(folder) else module


def costs(written: str) -> list[dict[str, Any]]:
    """Milliseconds of each import of the pack, alone and with what it pulled in, dearest first."""
    found = []
    for line in written.partition(MARK)[2].splitlines():
        if matched := LINE.match(line):
            alone, together = (int(part) / 1000 for part in matched.groups()[:2])
            name = own_name(matched[3])
            found.append({"module": name, "alone_ms": alone, "together_ms": together})
    return sorted(found, key=lambda row: -row["alone_ms"])


def measure(processes: int) -> dict[str, Any]:
    """All numbers; a first process, which may have to compile, is not counted."""
    fresh()
    runs = [fresh()[0] for _ in range(processes)]
    times = sorted(run["seconds"] for run in runs)
    foreign = [own_name(module) for module in runs[0]["modules"]]
    return {
        "median_seconds": round(statistics.median(times), 4),
        "seconds": [round(seconds, 4) for seconds in times],
        "foreign_modules": [name for name in foreign if not name.startswith("stylediffusion pack")],
        "imports": costs(fresh("-X", "importtime")[1]),
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench start", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="at least five")
    chosen = parser.parse_args()
    numbers = measure(max(5, chosen.processes))
    low, high = numbers["seconds"][0], numbers["seconds"][-1]
    print(f"import of the pack: {numbers['median_seconds']:.3f} s, median of"
          f" {len(numbers['seconds'])} processes ({low:.3f} to {high:.3f}); goal {GOAL_SECONDS} s")
    print("modules that the host had not: " + (", ".join(numbers["foreign_modules"]) or "none"))
    for row in numbers["imports"][:SHOWN]:
        print(f"  {row['alone_ms']:6.1f} ms  {row['module']}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def inside() -> None:
    """In the process that is measured: the host first, then the pack; print JSON."""
    import asyncio

    from training import host_path  # noqa: F401  (before anything that imports comfy)

    print(json.dumps(asyncio.run(load_the_pack())))


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["--inside"] else main()
