"""The demo command: the shipped graph in the real ComfyUI, judged against true edits.

    python -m development.demo [--out DIR] [--trials]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from demo import scenes, trials

from .editing import Pictures, load_graph, measure, picture, run
from .environment import ensure
from .graph import to_prompt
from .server import Server
from .sheet import Tile, sheet


class Console:
    """Progress of a run, node by node: a line for each, rewritten where there is a terminal."""

    def __init__(self, titles: dict[str, str]) -> None:
        self.titles = titles
        self.rewrites = sys.stdout.isatty()
        self.node, self.shown = "", 0.0

    def __call__(self, node_id: str, value: float, maximum: float) -> None:
        if maximum <= 1:
            return
        fresh = node_id != self.node
        done = value >= maximum
        if not fresh and not done and time.monotonic() - self.shown < (0.2 if self.rewrites else 5):
            return
        if fresh and self.rewrites and self.node:
            print()
        self.node, self.shown = node_id, time.monotonic()
        line = f"  {self.titles.get(node_id, node_id):<24} {value:>5.0f} / {maximum:.0f}"
        print(f"\r{line}" if self.rewrites else line, end="" if self.rewrites else "\n", flush=True)

    def close(self) -> None:
        """End the line that was being rewritten."""
        if self.rewrites and self.node:
            print()


def run_trial(server: Server, trial: trials.Trial) -> tuple[Pictures, dict[str, Any]]:
    """One trial with its numbers, shown while it runs."""
    prompt = to_prompt(load_graph(), server.object_info())
    console = Console({node_id: node["_meta"]["title"] for node_id, node in prompt.items()})
    started = time.monotonic()
    pictures = run(server, trial, progress=console)
    console.close()
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
              f"outside: {edit['psnr_outside']} dB (VAE alone {edit['ceiling_psnr_outside']})")
        print(f"    judged: {' '.join(edit['judged'].values())}")


def write_demo(server: Server, out: Path, started: float) -> None:
    """Run the demo's trial and write its sheet, numbers and single images."""
    pictures, numbers = run_trial(server, trials.DEMO)
    numbers["seconds"] = round(time.monotonic() - started, 1)
    report(numbers)
    sheet(f"StyleDiffusion: \u201c{source_prompt()}\u201d", rows_of(pictures, numbers)).save(
        out / "demo.png")
    singles = {"source": pictures.source, "round_trip": pictures.round_trip,
               "reconstruction": pictures.reconstruction,
               "ddim_reconstruction": pictures.ddim_reconstruction}
    for i, edit in enumerate(pictures.edits):
        singles |= {f"edit_{i + 1}": edit, f"ddim_edit_{i + 1}": pictures.ddim_edits[i],
                    f"true_edit_{i + 1}": pictures.true_edits[i]}
    for name, content in singles.items():
        picture(content).save(out / f"{name}.png")
    write_json(out / "demo.json", numbers)


def source_prompt() -> str:
    """The source prompt of the shipped graph."""
    return scenes.caption(trials.DEMO.scene)


def write_trials(server: Server, out: Path) -> None:
    """Run the twelve test scenes and write their numbers, medians and sheets."""
    results = []
    for i, trial in enumerate(trials.TESTS):
        print(f"Test scene {i + 1} of {len(trials.TESTS)}: {trial}", flush=True)
        pictures, numbers = run_trial(server, trial)
        report(numbers)
        results.append({"trial": vars(trial), **numbers})
        image: Image.Image = sheet(str(trial), rows_of(pictures, numbers))
        image.save(out / f"trial_{i + 1:02}.png")
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
                    "ceiling_psnr_outside", "ddim_psnr_outside"):
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
