"""Which taus for which edit: sixty unseen edits whose truth is known, under a grid of windows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from demo import scenes
from stylediffusion.host.edit.controller import WordOptions, make_control
from stylediffusion.host.edit.request import Edit
from stylediffusion.host.invert.inversion import invert_latent
from stylediffusion.host.learn.embedding import learn_value_embedding
from stylediffusion.host.views.tau_sweep import sample_cells
from stylediffusion.method.data import Trajectory, ValueEmbedding
from stylediffusion.method.local_blend import Blend
from stylediffusion.method.prompt_to_prompt import Window
from stylediffusion.method.sweep import cells
from stylediffusion.prompts.notation import make_axes
from training import judge
from training.editing import decibels
from training.unseen_edits import KINDS, SCENES, SceneEdit, chosen_edits

from .presets import DEMO, STEPS, Parts, load_parts, picture, request_for

TAU_S, TAU_C, TAU_V = "0, 0.3, 0.6, 0.8", "0.3, 0.6", "0.2, 0.5, 0.8"
NODE_DEFAULTS = "tau_s 0.6, tau_c 0.6, tau_v 0.5"


@torch.inference_mode()
def measured(parts: Parts, edits: list[SceneEdit]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(kind, windows, what came of it) of every edit of one scene under every cell."""
    source = picture(edits[0].scene)
    trajectory = invert_latent(parts.model, parts.clip, {"samples": parts.vae.encode(source)},
                               scenes.caption(edits[0].scene), "", STEPS)
    embedding = learn_value_embedding(parts.model, trajectory, None, None, request_for("default"))
    for edit in edits:
        true = picture(edit.wanted)[0]
        inside = (true - source[0]).abs().amax(-1) > 0
        for label, painted in painted_cells(parts, trajectory, embedding, edit):
            names = judge.name(judge.load(), torch.stack([true, painted]).permute(0, 3, 1, 2))
            yield edit.kind, label, {
                "inside_db": decibels(painted, true, inside),
                "outside_db": decibels(painted, true, ~inside) if (~inside).any() else None,
                "right": names[0] == names[1],
            }


def painted_cells(
    parts: Parts, trajectory: Trajectory, embedding: ValueEmbedding, edit: SceneEdit
) -> Iterator[tuple[str, Tensor]]:
    """Every cell's windows and picture [H, W, 3]: all tau_s, tau_c and tau_v, in one batch."""
    always = dict.fromkeys(("tau_v", "tau_c", "tau_s", "tau_u"), Window(0.0, 0.0))
    control = make_control(
        parts.clip, trajectory, scenes.caption(edit.wanted), "auto", always,
        WordOptions(blend_words=edit.blend_words), Blend(*DEMO.blend))
    rows, columns = make_axes(("tau_s", TAU_S), ("tau_c", TAU_C))
    deep, _ = make_axes(("tau_v", TAU_V), ("tau_c", TAU_C))
    targets = [replace(target, windows={**target.windows, "tau_v": window})
               for target in cells(control.targets[0], rows, columns)
               for _, window in deep.windows]
    labels = [f"{row}, {column}, {value}" for row in rows.labels for column in columns.labels
              for value in deep.labels]
    samples = sample_cells(
        Edit(parts.model, trajectory, embedding, replace(control, targets=tuple(targets)), 0.0))
    yield from zip(labels, parts.vae.decode(samples).clamp(0, 1), strict=True)


def summary(found: list[tuple[str, str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """For each kind and cell: medians in dB and how many edits the judge calls right."""
    table: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for kind, label in dict.fromkeys((kind, label) for kind, label, _ in found):
        rows = [row for k, name, row in found if (k, name) == (kind, label)]
        outside = [row["outside_db"] for row in rows if row["outside_db"] is not None]
        table[kind][label] = {
            "inside_db": round(statistics.median(row["inside_db"] for row in rows), 2),
            "outside_db": round(statistics.median(outside), 2) if outside else None,
            "right": sum(row["right"] for row in rows), "of": len(rows),
        }
    return table


def run(scenes_wanted: int = SCENES) -> dict[str, dict[str, Any]]:
    """The table; prints of each kind the five cells nearest the truth, and the defaults.

    Only cells that the judge names right as often as any count, or once less: one edit is chance.
    """
    parts, found = load_parts(), []
    for i, edits in enumerate(chosen_edits()[:scenes_wanted]):
        found += list(measured(parts, edits))
        print(f"  scene {i + 1} of {scenes_wanted}", flush=True)
    table = summary(found)
    for kind, cells_found in table.items():
        most = max(row["right"] for row in cells_found.values())
        reliable = [cell for cell in cells_found.items() if cell[1]["right"] >= most - 1]
        nearest = sorted(reliable, key=lambda cell: -cell[1]["inside_db"])
        for label, row in [*nearest[:5], (NODE_DEFAULTS, cells_found[NODE_DEFAULTS])]:
            print(f"  {kind}: {label}: inside {row['inside_db']} dB, outside {row['outside_db']} "
                  f"dB, right {row['right']} of {row['of']}", flush=True)
    return table
