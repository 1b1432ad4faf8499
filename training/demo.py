"""The demo command: the shipped graph in the real ComfyUI, judged against true edits.

    python -m training.demo [--out DIR] [--trials]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from demo import scenes
from development import examples
from development.environment import ensure
from development.examples import Prompt
from development.server import Server
from stylediffusion.drawing.sheets import Tile, sheet

from . import trials
from .editing import DEMO, Pictures, measure, picture, run


class Bars:
    """Progress of a run: a bar for every node that has steps."""

    def __init__(self, prompt: Prompt) -> None:
        self.titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}
        self.bars: dict[str, Any] = {}

    def __call__(self, node_id: str, value: float, maximum: float) -> None:
        if maximum <= 1:
            return
        if node_id not in self.bars:
            self.close()
            self.bars[node_id] = tqdm(
                desc=f"  {self.titles.get(node_id, node_id):<24}", total=round(maximum), ncols=80,
                file=sys.stdout, mininterval=0.2 if sys.stdout.isatty() else 5)
        self.bars[node_id].update(value - self.bars[node_id].n)

    def close(self) -> None:
        """No bar moves any more."""
        for bar in self.bars.values():
            bar.close()


def run_trial(server: Server, trial: trials.Trial) -> tuple[Pictures, dict[str, Any]]:
    """One trial with its numbers, shown while it runs."""
    bars, started = Bars(examples.prompt(DEMO)), time.monotonic()
    pictures = run(server, trial, bars)
    bars.close()
    numbers = measure(pictures)
    numbers["seconds"] = round(time.monotonic() - started, 1)
    return pictures, numbers


def rows_of(pictures: Pictures, numbers: dict[str, Any]) -> list[tuple[str, list[Tile]]]:
    """The sheet of one trial."""
    rows: list[tuple[str, list[Tile]]] = [("The picture, and what comes back without an edit", [
        ("source", "", pictures.source),
        ("StyleDiffusion", f"{numbers['reconstruction_psnr']} dB", pictures.reconstruction),
        ("plain DDIM inversion", f"{numbers['ddim_reconstruction_psnr']} dB",
         pictures.ddim_reconstruction),
        ("VAE alone (the ceiling)", f"{numbers['vae_psnr']} dB", pictures.round_trip),
    ])]
    for i, edit in enumerate(numbers["edits"]):
        rows.append((f"\u201c{edit['target']}\u201d", [
            ("true edit", "", pictures.true_edits[i]),
            ("StyleDiffusion", f"inside {edit['psnr_inside']} dB, outside {edit['psnr_outside']} "
             "dB", pictures.edits[i]),
            ("plain DDIM inversion", f"inside {edit['ddim_psnr_inside']} dB, outside "
             f"{edit['ddim_psnr_outside']} dB", pictures.ddim_edits[i]),
        ]))
    return rows


def report(numbers: dict[str, Any]) -> None:
    """Print the numbers of one trial."""
    print(f"  reconstruction {numbers['reconstruction_psnr']} dB; plain DDIM "
          f"{numbers['ddim_reconstruction_psnr']} dB; VAE alone {numbers['vae_psnr']} dB")
    for edit in numbers["edits"]:
        print(f"  '{edit['target']}'\n    inside: {edit['psnr_inside']} dB to the true edit "
              f"(source {edit['source_psnr_inside']}, plain DDIM {edit['ddim_psnr_inside']}); "
              f"outside: {edit['psnr_outside']} dB (VAE alone {edit['ceiling_psnr_outside']}; laid "
              f"into the source {edit['laid_in_psnr_outside']})")
        print(f"    judged: {' '.join(edit['judged'].values())}")


def write_demo(server: Server, out: Path, started: float) -> None:
    """Run the demo's trial and write its sheet, numbers and single images."""
    pictures, numbers = run_trial(server, trials.DEMO)
    numbers["seconds"] = round(time.monotonic() - started, 1)
    report(numbers)
    title = f"StyleDiffusion: \u201c{scenes.caption(trials.DEMO.scene)}\u201d"
    picture(sheet(title, rows_of(pictures, numbers))).save(out / "demo.png")
    names = ("source", "round_trip", "reconstruction", "ddim_reconstruction")
    singles = {name: getattr(pictures, name) for name in names}
    for i, edit in enumerate(pictures.edits):
        singles |= {f"edit_{i + 1}": edit, f"ddim_edit_{i + 1}": pictures.ddim_edits[i],
                    f"true_edit_{i + 1}": pictures.true_edits[i]}
    for name, content in singles.items():
        picture(content).save(out / f"{name}.png")
    write_json(out / "demo.json", numbers)


def write_trials(server: Server, out: Path) -> None:
    """Run the twelve test scenes and write their numbers, medians and sheets."""
    results = []
    for i, trial in enumerate(trials.TESTS):
        print(f"Test scene {i + 1} of {len(trials.TESTS)}: {trial}", flush=True)
        pictures, numbers = run_trial(server, trial)
        report(numbers)
        results.append({"trial": vars(trial), **numbers})
        picture(sheet(str(trial), rows_of(pictures, numbers))).save(out / f"trial_{i + 1:02}.png")
        write_json(out / "trials.json", {"median": medians(results), "trials": results})
    for name, value in medians(results).items():
        print(f"  {name}: {value}")


def medians(results: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over trials, and how often an edit was judged to be what was asked."""
    gaps = [r["vae_psnr"] - r["reconstruction_psnr"] for r in results]
    found = {"reconstruction_below_vae": statistics.median(gaps)}
    for key in ("vae_psnr", "reconstruction_psnr", "ddim_reconstruction_psnr", "seconds"):
        found[key] = statistics.median(r[key] for r in results)
    for place, kind in enumerate(("colour", "object")):
        edits = [r["edits"][place] for r in results]
        for key in ("psnr_inside", "source_psnr_inside", "ddim_psnr_inside", "psnr_outside",
                    "ceiling_psnr_outside", "ddim_psnr_outside", "laid_in_psnr_inside",
                    "laid_in_psnr_outside"):
            found[f"{kind}_{key}"] = statistics.median(e[key] for e in edits)
        right = [e["judged"] == e["true_judged"] for e in edits]
        found[f"{kind}_judged_right"] = sum(right) / len(right)
    return {name: round(value, 2) for name, value in found.items()}


def write_json(path: Path, numbers: dict[str, Any]) -> None:
    """Write numbers as a person can read them."""
    path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"),
                        help="where the pictures go")
    parser.add_argument("--trials", action="store_true", help="the twelve test scenes instead")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    environment, started = ensure(), time.monotonic()
    print("Starting ComfyUI ...", flush=True)
    base = environment.base_directory("demo")
    with Server(environment.python, environment.host, base) as server:
        print("Editing a picture with workflows/Demo.json", flush=True)
        if wanted.trials:
            write_trials(server, wanted.out)
        else:
            write_demo(server, wanted.out, started)
    print(f"The pictures and numbers are in {wanted.out}")


if __name__ == "__main__":
    main()
