"""The presets on the twelve test scenes: UNet work in rows, reconstruction, edits, seconds.

`direct` learns nothing: it sets the source row back on its way after every step. `null_text` and
`text_embedding` learn a prompt embedding of every step instead of a value embedding.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo import drawing, loading, scenes
from development import examples
from stylediffusion.host.edit.controller import WordOptions, make_control
from stylediffusion.host.edit.request import Edit
from stylediffusion.host.edit.sampling import sample_edits
from stylediffusion.host.invert.inversion import invert_latent
from stylediffusion.host.learn.embedding import learn_prompt_embedding, learn_value_embedding
from stylediffusion.host.learn.request import LearningRequest
from stylediffusion.host.model import ModelPatcher
from stylediffusion.method.adam import AdamSchedule
from stylediffusion.method.data import NULL_TEXT, TEXT_EMBEDDING, Embedding, Trajectory
from stylediffusion.method.learning import LearningSettings
from stylediffusion.method.local_blend import Blend
from stylediffusion.method.prompt_to_prompt import Control, Window
from training import judge, trials
from training.editing import decibels
from training.trials import Trial

from .meter import counted
from .timing import clock

STEPS = 30
COMPANIONS = {"null_text": NULL_TEXT, "text_embedding": TEXT_EMBEDDING}
PRESETS = ("default", "exact", "exact_free", "direct", *COMPANIONS)
DEMO = examples.settings("Demo")


@dataclass(frozen=True)
class Parts:
    """The demo model, loaded once."""

    model: ModelPatcher
    clip: Any
    vae: Any
    vision: Any


def load_parts() -> Parts:
    """Everything of the demo model, as a node would get it."""
    with torch.inference_mode():
        return Parts(loading.load_model(), loading.load_clip(), loading.load_vae(),
                     loading.load_vision())


def request_for(preset: str) -> LearningRequest:
    """What a person would choose, at the guidance of the example *Demo*."""
    request = LearningRequest(LearningSettings(guidance=DEMO.guidance))
    return request if preset == "default" else replace(request, schedule=AdamSchedule())


@torch.inference_mode()
def run_trial(parts: Parts, trial: Trial, presets: Sequence[str]) -> dict[str, Any]:
    """All presets on one scene."""
    source = picture(trial.scene)
    latent = {"samples": parts.vae.encode(source)}
    trajectory = invert_latent(
        parts.model, parts.clip, latent, scenes.caption(trial.scene), "", STEPS)
    ceiling = parts.vae.decode(latent["samples"]).clamp(0, 1)[0]
    found: dict[str, Any] = {"trial": str(trial), "ceiling_db": decibels(ceiling, source[0])}
    control = control_for(parts, trial, trajectory)
    for preset in presets:
        found[preset] = run_preset(parts, trial, source, trajectory, control, preset)
    return found


def control_for(parts: Parts, trial: Trial, trajectory: Trajectory) -> Control:
    """Both edits of a trial, as the template asks for them."""
    return make_control(
        parts.clip, trajectory, "\n".join(scenes.caption(edit) for edit in trial.edits), "auto",
        {name: Window(0.0, value) for name, value in DEMO.taus.items()},
        WordOptions(blend_words=trial.blend_words), Blend(*DEMO.blend))


def run_preset(
    parts: Parts, trial: Trial, source: Tensor, trajectory: Any, control: Any, preset: str
) -> dict[str, Any]:
    """Learn, sample and measure."""
    model, counter = counted(parts.model)
    tower, image = (parts.vision, source) if preset == "exact" else (None, None)
    embedding: Embedding | None = None
    started = clock()
    if preset in COMPANIONS:
        embedding = learn_prompt_embedding(
            model, trajectory, COMPANIONS[preset], DEMO.guidance)
    elif preset != "direct":
        embedding = learn_value_embedding(
            model, trajectory, tower, image, request_for(preset))
    seconds = clock() - started
    edit = Edit(parts.model, trajectory, embedding, control, DEMO.guidance, preset == "direct")
    painted = parts.vae.decode(sample_edits(edit)["samples"])
    painted = painted.clamp(0, 1)
    edits = [measured_edit(trial, i, source[0], painted[1 + i]) for i in range(2)]
    return {"rows": counter.rows, "inner_steps": 0 if embedding is None else len(embedding.losses),
            "seconds": round(seconds, 2), "reconstruction_db": decibels(painted[0], source[0]),
            "edits": edits}


def measured_edit(trial: Trial, place: int, source: Tensor, edit: Tensor) -> dict[str, Any]:
    """PSNR to the true edit inside what should change and outside, and the judge's word."""
    true = picture(trial.edits[place])[0]
    inside = (true - source).abs().amax(-1) > 0
    names = judge.name(judge.load(), torch.stack([true, edit]).permute(0, 3, 1, 2))
    return {"inside_db": decibels(edit, true, inside), "outside_db": decibels(edit, true, ~inside),
            "right": names[0] == names[1]}


def picture(scene: scenes.Scene) -> Tensor:
    """A scene as the host's IMAGE [1, H, W, 3]."""
    return torch.from_numpy(np.asarray(drawing.draw(scene), dtype=np.float32) / 255)[None]


def summary(results: list[dict[str, Any]], presets: Sequence[str]) -> dict[str, Any]:
    """Medians over the scenes, and how many edits were judged to be what was asked."""
    found: dict[str, Any] = {}
    for preset in presets:
        rows = [r[preset] for r in results]
        edits = [edit for row in rows for edit in row["edits"]]
        gaps = [r[preset]["reconstruction_db"] - r["ceiling_db"] for r in results]
        found[preset] = {
            "rows": statistics.median(r["rows"] for r in rows),
            "inner_steps": statistics.median(r["inner_steps"] for r in rows),
            "seconds": statistics.median(r["seconds"] for r in rows),
            "db_minus_ceiling": round(statistics.median(gaps), 3),
            "edits_inside_db": round(statistics.median(e["inside_db"] for e in edits), 2),
            "edits_outside_db": round(statistics.median(e["outside_db"] for e in edits), 2),
            "edits_right": f"{sum(e['right'] for e in edits)} of {len(edits)}",
        }
    return found


def run(scenes_wanted: int, presets: Sequence[str] = PRESETS) -> dict[str, Any]:
    """All presets on some of the test scenes."""
    parts, results = load_parts(), []
    for i, trial in enumerate(trials.TESTS[:scenes_wanted]):
        results.append(run_trial(parts, trial, presets))
        row = "; ".join(f"{p} {results[-1][p]['reconstruction_db']:.2f} dB in "
                        f"{results[-1][p]['rows']} rows, {results[-1][p]['seconds']} s"
                        for p in presets)
        print(f"  scene {i + 1}: {row}", flush=True)
    return {"summary": summary(results, presets), "scenes": results}
