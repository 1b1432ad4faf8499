"""What the pack works with: families of models, sizes and numbers, other nodes, full shape.

    python -m bench.compat [--json FILE] [--only families|sizes|neighbours|full]

Everything runs on small models of random weights but `full`, which writes checkpoints of Stable
Diffusion 1.5's and SDXL's shape to a temporary folder and loads them with the host's own loader.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import comfy.utils
import psutil
import torch

from . import families, full_shape, next_to
from .chain import STEPS, Chain, Verdict, apart

GIB, NEEDED = 2**30, {"SD1.5": 12, "SDXL": 18}
PARTS = ("families", "sizes", "neighbours", "full")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = families.Family("attention at 1/4 only", families.known.SD15, {
    **families.SD1, "num_res_blocks": [1, 1, 1], "channel_mult": [1, 1, 2],
    "transformer_depth": [0, 0, 1], "transformer_depth_output": [0, 0, 0, 0, 1, 1],
}, "sd1", steps=2)
PIXELS = ((64, 64), (104, 72), (88, 136), (256, 64), (64, 256), (512, 512), (760, 1016),
          (1024, 256), (2048, 512), (512, 2048), (2048, 2048))
TRAINED = ((128, 128), (264, 200), (512, 128), (128, 512), (512, 512))
ODD = ((65, 130), (71, 64), (127, 255))
COUNTS = (1, 2, 3, 8, 16)
WORDS = ("boat", "very big car", "horse", "house", "small dog", "tree", "lamp", "blue boat")


def of_families(names: list[str] | None) -> dict[str, Any]:
    """Every family at every precision, a row of a table each."""
    print(f"\n| family | {' | '.join(STEPS)} |\n|---|{'---|' * len(STEPS)}")
    found: dict[str, Any] = {}
    for family in families.FAMILIES:
        if names and family.name not in names:
            continue
        rows = {name: run(family, dtype) for name, dtype in PRECISIONS.items()}
        found[family.name] = {name: shown(row) for name, row in rows.items()}
        cells = (" / ".join(cell(row.get(step)) for row in rows.values()) for step in STEPS)
        print(f"| {family.name} | {' | '.join(cells)} |", flush=True)
    for name, kind in families.REFUSED.items():
        with torch.inference_mode():
            made = Chain(families.refused(kind)(), families.load_clip(families.FAMILIES[8]))
        said = made.run()["invert"]
        found[name] = {"fp32": str(said)}
        print(f"| {name} | {said} | | | |", flush=True)
    return found


def run(family: families.Family, dtype: torch.dtype, **more: Any) -> dict[str, Verdict]:
    """All steps of a family at one precision."""
    with torch.inference_mode():
        model, clip = families.load_model(family, dtype), families.load_clip(family)
    return Chain(model, clip, family.steps, family.guidance, dtype=dtype, **more).run()


def cell(verdict: Verdict | None) -> str:
    """A table's cell: the number, or that it fails, or nothing after a step that failed."""
    if verdict is None:
        return "-"
    return (verdict.said or "same bits") if verdict.good else str(verdict)


def shown(verdicts: dict[str, Verdict]) -> dict[str, str]:
    """Verdicts as text."""
    return {step: str(verdict) for step, verdict in verdicts.items()}


def of_sizes() -> dict[str, Any]:
    """Pictures of 64 to 2048 px, 1:4 to 4:1, odd grids; sizes the VAE crops; 1 to 16 targets.

    A table of 77 words has little hold on random weights and many cells: there it is asked only
    that learning comes nearer than plain DDIM, and of the trained demo model as of the families.
    """
    print(f"\n| model | width x height | {' | '.join(STEPS)} |\n|---|---|{'---|' * len(STEPS)}")
    found: dict[str, Any] = {}

    def note(model: str, width: int, height: int, row: dict[str, Verdict]) -> None:
        found[f"{model}, {width}x{height}"] = shown(row)
        cells = " | ".join(cell(row.get(step)) for step in STEPS)
        print(f"| {model} | {width} x {height} | {cells} |", flush=True)

    for width, height in PIXELS:
        note("random", width, height,
             run(SMALL, torch.float32, latent=(height // 8, width // 8), enough=1.0))
    for width, height in TRAINED:
        note("demo", width, height, trained(width, height))
    found["cropped"] = [cropped(*size) for size in ODD]
    found["targets"] = [targets(count) for count in COUNTS]
    return found


def trained(width: int, height: int) -> dict[str, Verdict]:
    """The demo model and its own scene, stretched to another size."""
    with torch.inference_mode():
        demo, scene = subjects.load("demo"), subjects.trials.DEMO
        clip, vae = subjects.loading.load_clip(), subjects.loading.load_vae()
        picture = comfy.utils.common_upscale(
            torch.from_numpy(subjects.np.array(subjects.drawing.draw(scene.scene))).movedim(
                -1, 0)[None].float() / 255, width, height, "bilinear", "disabled")
        samples = vae.encode(picture.movedim(1, -1))
    source = subjects.scenes.caption(scene.scene)
    return Chain(demo.model, clip, steps=10, guidance=7.5, latent=(height // 8, width // 8),
                 samples=samples, source=source, target=source + " at night").run()


def cropped(width: int, height: int) -> str:
    """A picture whose sides are no multiples of 8: what the VAE's crop leaves goes through."""
    with torch.inference_mode():
        vae = subjects.loading.load_vae()
        latent = vae.encode(torch.rand(1, height, width, 3))
        painted = vae.decode(latent)
    row = run(SMALL, torch.float32, latent=tuple(latent.shape[-2:]), enough=1.0)
    good = all(verdict.good for verdict in row.values()) and len(row) == len(STEPS)
    said = f"{width} x {height}: {painted.shape[2]} x {painted.shape[1]}, " \
        f"{'OK' if good else shown(row)}"
    print(f"  {said}", flush=True)
    return said


def targets(count: int) -> str:
    """So many targets in one run: each is what it is alone."""
    with torch.inference_mode():
        chain = Chain(families.load_model(SMALL, torch.float32), families.load_clip(SMALL), 2)
        chain.invert()
        lines = [f"a {'red ' * (i % 3)}{WORDS[i % len(WORDS)]} in a meadow" for i in range(count)]
        together = chain.edited("\n".join(lines))
        alone = [chain.edited(line)[1:] for line in lines]
    worst = max(apart(row[None], own) for row, own in zip(together[1:], alone, strict=True))
    said = f"{count} targets: {'OK' if worst < 1e-4 else 'FAILS'}, {worst:.0e} from each alone"
    print(f"  {said}", flush=True)
    return said


def of_neighbours(names: list[str] | None) -> dict[str, Any]:
    """Other nodes in front of ours: what they change in a plain sample, and what ours then do."""
    print(f"\n| node | changes a plain sample by | {' | '.join(STEPS)} |\n"
          f"|---|---|{'---|' * len(STEPS)}")
    found: dict[str, Any] = {}
    for name, changed, row in next_to.all_of_them(names):
        found[name] = {"changes": changed, **shown(row)}
        cells = " | ".join(cell(row.get(step)) for step in STEPS)
        print(f"| {name} | {100 * changed:.0f} % | {cells} |", flush=True)
    return found


def of_full_shape(names: list[str] | None) -> dict[str, Any]:
    """Models of released shape through the host's checkpoint loader, fp16 weights in the file."""
    found: dict[str, Any] = {}
    for name in names or full_shape.SHAPES:
        free = psutil.virtual_memory().available / GIB
        if free < NEEDED[name]:
            print(f"{name} is skipped: {free:.0f} GiB of memory are free, {NEEDED[name]} needed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, clip = full_shape.loaded(Path(folder), name)
            row = Chain(model, clip, steps=2, latent=(16, 16)).run()
        found[name] = shown(row)
        print(f"{name} at full shape, computed in {model.model_dtype()}: {shown(row)}", flush=True)
    return found


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench compat", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--only", choices=PARTS, nargs="*")
    parser.add_argument("--named", nargs="*", help="only these families, nodes or shapes")
    chosen = parser.parse_args(subjects.own_arguments)
    logging.disable(logging.WARNING)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    parts = {"families": lambda: of_families(chosen.named), "sizes": of_sizes,
             "neighbours": lambda: of_neighbours(chosen.named),
             "full": lambda: of_full_shape(chosen.named)}
    numbers: dict[str, Any] = {}
    print(f"on {subjects.device_name()}", flush=True)
    for part in chosen.only or PARTS:
        numbers[part] = parts[part]()
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
