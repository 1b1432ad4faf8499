"""What learning keys beside values would win: the same budget, the same scenes, both forms.

    python -m bench.keys [--json FILE] [--scenes N]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import torch
from torch import Tensor

from demo import loading, scenes, trials
from stylediffusion.artifacts import Trajectory, ValueEmbedding
from stylediffusion.blend import Blend
from stylediffusion.control import Window
from stylediffusion.host.attention import (
    CONDITIONAL,
    AttentionPatch,
    conditional_chunks,
    sampling_step,
    with_patch,
)
from stylediffusion.host.controlling import Wishes, make_control
from stylediffusion.host.inverting import invert_latent
from stylediffusion.host.learning import HostLearningModel
from stylediffusion.host.model import fingerprint
from stylediffusion.host.sampling import sample_edits
from stylediffusion.learning import LearningSettings, Learnt, learn
from stylediffusion.mapping import SCALE_AND_SHIFT, scale_and_shift, start_rows, value_input
from stylediffusion.metrics import psnr
from stylediffusion.solvers import QuasiNewtonSolver, noise_coefficient

from .presets import BLEND, STEPS, WINDOWS, measured_edit, picture

FORMS = ("value", "key and value")
EVALUATIONS = 16
BUDGET = LearningSettings(
    evaluations=EVALUATIONS, first_evaluations=EVALUATIONS,
    closing_evaluations=EVALUATIONS, last_evaluations=EVALUATIONS, good_enough=0.0,
    good_enough_closing=0.0, attention_weight=0.0)


class KeyValueModel(HostLearningModel):
    """Hears tables [154, d]: the first half for the value input, the second for the key input."""

    def hearing(
        self, latent: Tensor, level: int, scale: Tensor | None, shift: Tensor | None, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """eps and maps with the value input c * s + b and the key input c * s_k + b_k."""
        if scale is None or shift is None:
            return super().hearing(latent, level, scale, shift, maps)
        value_scale, key_scale = scale.chunk(2)
        value_shift, key_shift = shift.chunk(2)
        options = with_patch(self.options, "attn2_patch",
                             key_patch(key_scale[None], key_shift[None], None))
        return self._hearing(options, latent, level, value_scale, value_shift, maps)


def key_patch(scale: Tensor, shift: Tensor, row: int | None) -> AttentionPatch:
    """An attn2_patch: one conditional row, or all, looks with c * s + b; tables [N or 1, 77, d]."""

    def patch(
        n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        step = sampling_step(extra) if len(scale) > 1 else 0
        parts = []
        for kind, rows in conditional_chunks(len(context), extra):
            part = context[rows]
            if kind == CONDITIONAL:
                looked = value_input(part, scale[step].to(part.device), shift[step].to(part.device))
                part = looked if row is None else torch.cat(
                    [part[:row], looked[row : row + 1], part[row + 1 :]])
            parts.append(part)
        return n, torch.cat(parts), value

    return patch


def learnt_with(form: str, model: Any, trajectory: Trajectory) -> Learnt:
    """The fast preset's solver with the same number of evaluations at every step."""
    found: list[Learnt] = []
    device = model.load_device
    context = trajectory.positive[0][0].clone().to(device)
    rows = start_rows(SCALE_AND_SHIFT, context)
    if form != "value":
        scale, shift = rows.chunk(2)
        rows = torch.cat([scale, scale, shift, shift])

    def work(wrapped: Any, options: dict[str, Any], sigmas: Tensor) -> None:
        kind = HostLearningModel if form == "value" else KeyValueModel
        host = kind(wrapped, options, trajectory.levels, sigmas, ())
        with torch.enable_grad():
            found.append(learn(host, trajectory.latents.clone().to(device), trajectory.levels,
                               QuasiNewtonSolver(rows, scale_and_shift, BUDGET), BUDGET))

    model.model.requires_grad_(False)
    positive, negative = (
        [(entry[0][0].clone(), entry[0][1])]
        for entry in (trajectory.positive, trajectory.negative))
    stage = subjects.Subject("demo", model, positive, negative, trajectory.noise.clone(), None,
                             torch.empty(0))
    subjects.on_stage(stage, trajectory.levels.sigmas.float(), work)
    return found[0]


def measured(model: Any, clip: Any, vae: Any, trial: trials.Trial) -> dict[str, Any]:
    """Both forms on one scene: losses a step in units of noise, reconstruction and edits in dB."""
    with torch.inference_mode():
        source = picture(trial.scene)
        latent = {"samples": vae.encode(source)}
        trajectory = invert_latent(
            model, clip, latent, scenes.caption(trial.scene), "", STEPS)
        control = make_control(
            clip, trajectory, "\n".join(scenes.caption(edit) for edit in trial.edits), "auto",
            {name: Window(0.0, value) for name, value in WINDOWS.items()},
            Wishes(blend_words=f"{trial.object}, {trial.new_object}"), Blend(*BLEND))
        ceilings = [ceiling(vae, source, picture(edit)) for edit in trial.edits]
        found: dict[str, Any] = {
            "trial": str(trial), "vae_db": psnr(decoded(vae, latent["samples"])[0], source[0]),
            "outside_ceilings_db": ceilings}
    for form in FORMS:
        learnt = learnt_with(form, model, trajectory)
        tables = [learnt.scale, learnt.shift]
        patched = model.clone()
        if form != "value":
            (scale, key_scale), (shift, key_shift) = (table.chunk(2, 1) for table in tables)
            tables = [scale, shift]
            patched.set_model_attn2_patch(key_patch(key_scale, key_shift, 0))
        embedding = ValueEmbedding(
            tables[0], tables[1], BUDGET.guidance, trajectory.prompt, fingerprint(model), ())
        with torch.inference_mode():
            painted = decoded(vae, sample_edits(
                patched, trajectory, embedding, control, 0.0, False)["samples"])
        found[form] = {
            "losses": losses_by_step(learnt, trajectory),
            "reconstruction_db": psnr(painted[0], source[0]),
            "edits": [measured_edit(trial, i, source[0], painted[1 + i]) for i in range(2)]}
    return found


def losses_by_step(learnt: Learnt, trajectory: Trajectory) -> list[float]:
    """The best loss of every step, in units of the conditional noise."""
    best = []
    for step in range(STEPS):
        unit = noise_coefficient(trajectory.levels, STEPS - step) * BUDGET.guidance
        best.append(min(x.latent for x in learnt.losses if x.step == step) / unit**2)
    return best


def decoded(vae: Any, samples: Tensor) -> Tensor:
    """Pictures [rows, H, W, 3] in 0..1."""
    pictures: Tensor = vae.decode(samples).clamp(0, 1)
    return pictures


def ceiling(vae: Any, source: Tensor, true: Tensor) -> float:
    """What the VAE's round trip of the true edit reaches where nothing should change."""
    outside = ~((true - source).abs().amax(-1) > 0)
    return psnr(decoded(vae, vae.encode(true)), true, outside)


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the printed table."""
    edits = ", ".join(f"outside {edit['outside_db']:.2f} (ceiling {best:.2f}), inside "
                      f"{edit['inside_db']:.2f}" for edit, best in
                      zip(found[name]["edits"], found["outside_ceilings_db"], strict=True))
    losses = " ".join(f"{loss:.1e}" for loss in found[name]["losses"][::5] +
                      found[name]["losses"][-1:])
    return (f"    {name}: source {found[name]['reconstruction_db']:.2f} dB (VAE "
            f"{found['vae_db']:.2f}); {edits}; loss at every fifth step and the last: {losses}")


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench keys", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--scenes", type=int, default=4, help="the demo's scene and test scenes")
    chosen = parser.parse_args(subjects.own_arguments)
    with torch.no_grad():
        model, clip, vae = (load() for load in (
            lambda: loading.load_model(disable_dynamic=True), loading.load_clip, loading.load_vae))
    print(f"on {subjects.device_name()}", flush=True)
    results = []
    for trial in (trials.DEMO, *trials.TESTS)[: chosen.scenes]:
        results.append(measured(model, clip, vae, trial))
        print(f"  {trial}\n" + "\n".join(row(form, results[-1]) for form in FORMS), flush=True)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
