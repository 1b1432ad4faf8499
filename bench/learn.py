"""How fast, how lean and how exact learning is.

    python -m bench.learn [--json FILE] [--scenes N] [--only demo|sd15|presets|inversions]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import psutil

from . import inversions, memory, presets
from .learning_step import InnerSteps, with_inner_steps
from .timing import ratio

GIB = 2**30
SIDE = 64
PAIRS = {"demo": (31, 7), "sd15": (3, 1)}
NEEDED = {"forward": 12, "learning": 12, "checkpointed": 12, "textbook": 16}


def enough_memory(shape: str, kind: str) -> bool:
    """Whether a row can be measured here; says so where it cannot."""
    free = psutil.virtual_memory().available / GIB
    if shape == "demo" or free >= NEEDED[kind]:
        return True
    print(f"  {shape}, {kind}: skipped, {free:.0f} GiB of memory are free, {NEEDED[kind]} needed")
    return False


def step_ratios(shape: str) -> dict[str, Any]:
    """inner step / forward, and textbook step / inner step."""
    found: dict[str, Any] = {}
    if not enough_memory(shape, "learning"):
        return found
    ours, textbook = PAIRS[shape]

    def work(steps: InnerSteps) -> None:
        inner = steps.inner()
        found["inner_step_over_forward"] = ratio(inner, steps.plain(), ours)
        print(f"  {shape}: inner step / forward {found['inner_step_over_forward']}", flush=True)
        if enough_memory(shape, "textbook"):
            found["textbook_over_ours"] = ratio(steps.textbook(), inner, textbook)
            print(f"  {shape}: textbook / ours {found['textbook_over_ours']}", flush=True)

    with_inner_steps(subjects.load(shape, SIDE), work)
    return found


def peaks() -> dict[str, Any]:
    """Peak bytes of each kind of work at SD1.5's shape, each in a fresh process."""
    found = {}
    for kind in memory.LEARNING_KINDS:
        if enough_memory("sd15", kind):
            found[kind] = memory.measured("sd15", kind, SIDE)
            row = ", ".join(f"{k} {v / GIB:.2f} GiB" for k, v in found[kind].items())
            print(f"  sd15, {kind}: {row}", flush=True)
    return found


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench learn", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--scenes", type=int, default=12, help="of the twelve test scenes")
    parser.add_argument("--only", choices=["demo", "sd15", "presets", "inversions"], nargs="*")
    chosen = parser.parse_args(subjects.own_arguments)
    wanted = chosen.only or ["demo", "sd15", "presets"]
    print(f"on {subjects.device_name()}", flush=True)
    numbers: dict[str, Any] = {
        "inner_step_over_forward": {}, "textbook_over_ours": {}, "peak_bytes": {}}
    if "sd15" in wanted:  # before this process holds a model of that shape itself
        numbers["peak_bytes"] = peaks()
        write(chosen.json, numbers)
    for shape in ("demo", "sd15"):
        if shape in wanted:
            print(f"{shape}: times in turns", flush=True)
            for name, value in step_ratios(shape).items():
                numbers[name][shape] = value
            write(chosen.json, numbers)
    if "presets" in wanted:
        print(f"presets on {chosen.scenes} unseen scenes", flush=True)
        found = presets.run(chosen.scenes)
        rows = found["summary"]
        numbers["presets"] = found
        numbers["forwards_exact_over_default"] = round(
            rows["exact"]["rows"] / rows["default"]["rows"], 2)
        numbers["reconstruction_db_minus_ceiling"] = {
            name: row["db_minus_ceiling"] for name, row in rows.items()}
        print(json.dumps(rows, indent=2))
        print(f"rows, exact / default: {numbers['forwards_exact_over_default']}")
        write(chosen.json, numbers)
    if "inversions" in wanted:
        print(f"inversions on {chosen.scenes} unseen scenes", flush=True)
        numbers["inversions"] = inversions.run(chosen.scenes)
        write(chosen.json, numbers)


def write(path: Path | None, numbers: dict[str, Any]) -> None:
    """Write what is known so far."""
    if path is not None:
        path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
