"""Inversions side by side on the twelve test scenes: what comes back, and what edits become.

What comes back is plain DDIM sampling of the trajectory's noise, at guidance 1, which an inversion
is meant to undo, and at that of *Demo*. Edits are painted with nothing learnt, with negative-prompt
inversion, with a learnt value embedding, and with the source set back on its way.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from demo import scenes
from stylediffusion.host.edit.request import Edit
from stylediffusion.host.edit.sampling import sample_edits
from stylediffusion.host.invert.inversion import invert_latent
from stylediffusion.host.learn.embedding import learn_value_embedding, negative_prompt_embedding
from stylediffusion.method.data import Embedding, Trajectory
from stylediffusion.method.fixed_point import ANDERSON, DDIM, EASY, FIXED_POINT, refinement
from training import trials
from training.editing import decibels
from training.trials import Trial

from .meter import counted
from .presets import (
    DEMO,
    STEPS,
    Parts,
    control_for,
    load_parts,
    measured_edit,
    picture,
    request_for,
)

Inversion = tuple[str, int]

INVERSIONS: tuple[Inversion, ...] = (
    (DDIM, 0), (FIXED_POINT, 1), (FIXED_POINT, 2), (FIXED_POINT, 3), (FIXED_POINT, 5),
    (ANDERSON, 2), (ANDERSON, 3), (ANDERSON, 5), (EASY, 0))
EDITED: tuple[Inversion, ...] = ((DDIM, 0), (FIXED_POINT, 1), (FIXED_POINT, 3), (EASY, 0))
GUIDANCES = (1.0, DEMO.guidance)
REPAIRS = ("nothing", "negative prompt", "fast", "exact source")


def label(inversion: Inversion) -> str:
    """As the table names it."""
    name, iterations = inversion
    return f"{name} {iterations}" if iterations else name


@torch.inference_mode()
def run_trial(parts: Parts, trial: Trial) -> dict[str, Any]:
    """All inversions of one scene."""
    source = picture(trial.scene)
    latent = {"samples": parts.vae.encode(source)}
    ceiling = decibels(parts.vae.decode(latent["samples"]).clamp(0, 1)[0], source[0])
    found: dict[str, Any] = {"trial": str(trial), "ceiling_db": ceiling}
    for inversion in INVERSIONS:
        model, counter = counted(parts.model)
        trajectory = invert_latent(model, parts.clip, latent, scenes.caption(trial.scene), "",
                                   STEPS, refine=refinement(*inversion))
        row: dict[str, Any] = {
            "rows": counter.rows, **came_back(parts, trajectory, latent["samples"], source)}
        if inversion in EDITED:
            row["edits"] = {repair: edited(parts, trial, trajectory, source, repair)
                            for repair in REPAIRS}
        found[label(inversion)] = row
    return found


def came_back(
    parts: Parts, trajectory: Trajectory, latent: Tensor, source: Tensor
) -> dict[str, float]:
    """Latent error |z - z_0| / |z_0| and picture in dB of plain sampling at both guidances."""
    found = {}
    for guidance in GUIDANCES:
        samples = sample_edits(Edit(parts.model, trajectory, None, None, guidance))["samples"]
        found[f"error_{guidance:g}"] = float((samples - latent).norm() / latent.norm())
        found[f"db_{guidance:g}"] = decibels(parts.vae.decode(samples).clamp(0, 1)[0], source[0])
    return found


def edited(
    parts: Parts, trial: Trial, trajectory: Trajectory, source: Tensor, repair: str
) -> dict[str, Any]:
    """A colour and an object edit of the trial, as one of `REPAIRS` paints them."""
    embedding: Embedding | None = None
    if repair == "negative prompt":
        embedding = negative_prompt_embedding(parts.model, trajectory)
    elif repair == "fast":
        embedding = learn_value_embedding(
            parts.model, trajectory, None, None, request_for("default"))
    control = control_for(parts, trial, trajectory)
    edit = Edit(
        parts.model, trajectory, embedding, control, DEMO.guidance, repair == "exact source")
    painted = parts.vae.decode(sample_edits(edit)["samples"])
    painted = painted.clamp(0, 1)
    return {"reconstruction_db": decibels(painted[0], source[0]),
            "edits": [measured_edit(trial, i, source[0], painted[1 + i]) for i in range(2)]}


def run(scenes_wanted: int) -> dict[str, Any]:
    """All inversions on some of the test scenes; prints two tables."""
    parts, results = load_parts(), []
    for i, trial in enumerate(trials.TESTS[:scenes_wanted]):
        results.append(run_trial(parts, trial))
        back = results[-1]
        print(f"  scene {i + 1}: " + "; ".join(
            f"{label(one)} {back[label(one)]['error_1']:.1e}" for one in INVERSIONS), flush=True)
    print_coming_back(results)
    print_edits(results)
    return {"scenes": results}


def print_coming_back(results: list[dict[str, Any]]) -> None:
    """Medians over the scenes of what plain sampling gives back."""
    errors = " | ".join(f"error, guidance {guidance:g} | dB" for guidance in GUIDANCES)
    print(f"| inversion | rows | {errors} |")
    print("|---|---|---|---|---|---|")
    for inversion in INVERSIONS:
        rows = [result[label(inversion)] for result in results]
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]
                  if key != "edits"}
        told = " | ".join(f"{middle[f'error_{guidance:g}']:.2g} | {middle[f'db_{guidance:g}']:.1f}"
                          for guidance in GUIDANCES)
        print(f"| {label(inversion)} | {middle['rows']:.0f} | {told} |")


def print_edits(results: list[dict[str, Any]]) -> None:
    """Medians over the edits, and the mean paired difference to DDIM with its deviation."""
    print("| inversion | repair | reconstruction | inside | to DDIM | outside | to DDIM | right |")
    print("|---|---|---|---|---|---|---|---|")
    for repair in REPAIRS:
        for inversion in EDITED:
            told = [result[label(inversion)]["edits"][repair] for result in results]
            plain = [result[label(EDITED[0])]["edits"][repair] for result in results]
            back = statistics.median(one["reconstruction_db"] for one in told)
            right = [edit["right"] for one in told for edit in one["edits"]]
            print(f"| {label(inversion)} | {repair} | {back:.1f} "
                  f"| {compared(told, plain, 'inside_db')} "
                  f"| {compared(told, plain, 'outside_db')} | {sum(right)} of {len(right)} |")


def compared(told: list[dict[str, Any]], plain: list[dict[str, Any]], key: str) -> str:
    """A median, and the mean difference with the standard deviation of the paired differences."""
    own, other = ([edit[key] for one in some for edit in one["edits"]] for some in (told, plain))
    apart = [a - b for a, b in zip(own, other, strict=True)]
    return (f"{statistics.median(own):.1f} | {statistics.mean(apart):+.2f} "
            f"({statistics.pstdev(apart):.2f})")
