"""What an edit costs beside plain sampling of the same batch.

    python -m bench.edit [--json FILE] [--only demo|sd15|sizes|memory|taus]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import psutil

from . import memory, taus
from .editing_step import MODES, EditSteps, with_edit_steps
from .timing import ratio

GIB = 2**30
SIDE, SIZES = 64, (32, 96)
PAIRS = {"demo": 41, "sd15": 7, "sizes": 3, "textbook": 3}
NEEDED = 10
PARTS = ("demo", "taus", "sd15", "sizes", "memory")
SMALL = {"demo", "taus"}


def over_plain(shape: str, side: int, pairs: int, modes: tuple[str, ...] = MODES
               ) -> dict[str, Any]:
    """Edited step / plain step for every mode."""
    found: dict[str, Any] = {}
    subject = subjects.load(shape, side)
    for mode in modes:

        def work(steps: EditSteps, mode: str = mode) -> None:
            found[mode] = ratio(steps.edited, steps.plain, pairs)

        with_edit_steps(subject, mode, work)
        print(f"  {shape} {side}, {mode} / plain: {found[mode]}", flush=True)
    return found


def textbook_over_ours(shape: str, pairs: int) -> dict[str, Any]:
    """A controller that makes every map / our Refine with a blend's word read."""
    found: dict[str, Any] = {}

    def work(steps: EditSteps) -> None:
        found["replace+blend"] = ratio(steps.textbook(), steps.edited, pairs)

    with_edit_steps(subjects.load(shape, SIDE), "replace+blend", work)
    print(f"  {shape}: textbook controller / ours: {found}", flush=True)
    return found


def peaks_over_plain() -> dict[str, float]:
    """Peak less resident weights, edited / plain, each in a fresh process."""
    found = {kind: memory.measured("sd15", kind, SIDE) for kind in memory.EDITING_KINDS}
    used = {kind: row["peak"] - row["weights"] for kind, row in found.items()}
    ratios = {kind: round(used[kind] / used["plain"], 3) for kind in MODES}
    print(f"  sd15, peak / plain peak, both less the weights: {ratios}", flush=True)
    return ratios


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench edit", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--only", choices=PARTS, nargs="*")
    chosen = parser.parse_args(subjects.own_arguments)
    wanted = set(chosen.only or PARTS)
    print(f"on {subjects.device_name()}", flush=True)
    free = psutil.virtual_memory().available / GIB
    if free < NEEDED and not wanted <= SMALL:
        print(f"SD1.5's shape is skipped: {free:.0f} GiB of memory are free, {NEEDED} needed")
        wanted = wanted & SMALL
    numbers: dict[str, Any] = {"edit_over_plain": {}, "textbook_over_ours": {}, "by_latent": {}}

    def keep() -> None:
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")

    for shape in ("demo", "sd15"):
        if shape in wanted:
            numbers["edit_over_plain"][shape] = over_plain(shape, SIDE, PAIRS[shape])
            numbers["textbook_over_ours"][shape] = textbook_over_ours(shape, PAIRS["textbook"])
            keep()
    if "taus" in wanted:
        numbers["by_tau"] = taus.run()
        keep()
    if "sizes" in wanted:
        for side in SIZES:
            numbers["by_latent"][side] = over_plain("sd15", side, PAIRS["sizes"], MODES[1:])
            keep()
    if "memory" in wanted:
        numbers["peak_bytes_over_plain"] = peaks_over_plain()
        keep()


if __name__ == "__main__":
    main()
