"""Invert, learn, edit, save and load on any MODEL, each with a verdict and the number behind it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import subjects  # noqa: F401  isort: skip  (before anything that imports comfy)

import torch
from torch import Tensor

from stylediffusion.host.edit.controller import make_control
from stylediffusion.host.edit.request import Edit
from stylediffusion.host.edit.sampling import sample_edits
from stylediffusion.host.invert.inversion import invert_latent
from stylediffusion.host.learn.embedding import learn_value_embedding
from stylediffusion.host.learn.request import LearningRequest
from stylediffusion.method.data import Embedding, Trajectory
from stylediffusion.method.layers import supervising_layers
from stylediffusion.method.learning import LearningSettings
from stylediffusion.method.prompt_to_prompt import Control, Window
from stylediffusion.method.quasi_newton import QuasiNewtonSchedule
from stylediffusion.storage import inversion_file

SOURCE, TARGET = "a red car in a meadow", "a blue boat in a meadow"
STEPS = ("invert", "learn", "edit", "save/load")
REFUSED = "refused"
ENOUGH = 0.7
CHANGED = 0.05  # of the source is what an edit must differ by inside
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
TAUS = {"tau_v": Window(0.0, 0.5), "tau_c": Window(0.0, 0.6), "tau_s": Window(0.0, 0.6),
        "tau_u": Window(0.0, 0.0)}


@dataclass(frozen=True)
class Verdict:
    """Whether a step did what it must, and the number or the message that says so."""

    good: bool
    said: str

    def __str__(self) -> str:
        if self.said.startswith(REFUSED):
            return self.said
        return f"{'OK' if self.good else 'FAILS'} {self.said}"


@dataclass
class Chain:
    """One picture taken through all steps on one MODEL; a step that breaks ends it.

    It is `samples` [1, C, h, w] (host units) or drawn at random; `enough` of plain DDIM's error is
    what learning must get below.
    """

    model: Any
    clip: Any
    steps: int = 4
    guidance: float = 4.0
    latent: tuple[int, int] = (8, 12)
    dtype: torch.dtype = torch.float32
    samples: Tensor | None = None
    source: str = SOURCE
    target: str = TARGET
    enough: float = ENOUGH
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    trajectory: Trajectory = field(init=False)
    embedding: Embedding = field(init=False)
    control: Control = field(init=False)
    alone: Tensor = field(init=False)
    rows: Tensor = field(init=False)

    def run(self) -> dict[str, Verdict]:
        """Verdicts of all steps, in their order."""
        with torch.inference_mode():
            for name, step in zip(STEPS, self._steps(), strict=True):
                try:
                    self.verdicts[name] = step()
                except ValueError as error:
                    self.verdicts[name] = Verdict(False, f"{REFUSED}: {error}")
                    break
                except Exception as error:
                    self.verdicts[name] = Verdict(False, f"{type(error).__name__}: {error}")
                    break
        return self.verdicts

    def _steps(self) -> tuple[Callable[[], Verdict], ...]:
        return self.invert, self.learn, self.edit, self.save

    def invert(self) -> Verdict:
        """All latents are finite, and there are layers whose maps supervise learning."""
        start = self.samples
        if start is None:
            generator = torch.Generator().manual_seed(14)
            drawn = 0.5 * torch.randn(1, 4, *self.latent, generator=generator)
            start = self.model.get_model_object("latent_format").process_out(drawn)
        self.trajectory = invert_latent(
            self.model, self.clip, {"samples": start}, self.source, "", self.steps)
        watched = supervising_layers(self.trajectory.layers, *self.latent)
        finite = bool(torch.isfinite(self.trajectory.latents).all())
        return Verdict(finite and bool(watched), f"{len(watched)} layers")

    def learn(self) -> Verdict:
        """The reconstruction's error is well under plain DDIM's."""
        request = LearningRequest(LearningSettings(self.guidance), QuasiNewtonSchedule(
            evaluations=4, first_evaluations=4, closing_evaluations=4, last_evaluations=4))
        self.embedding = learn_value_embedding(self.model, self.trajectory, None, None, request)
        wanted = self.trajectory.latents[:1]
        self.alone = self._rows(None, self.embedding)
        share = apart(self.alone, wanted) / apart(self._rows(None, None), wanted)
        return Verdict(share < self.enough, f"{100 * share:.0f} %")

    def edit(self) -> Verdict:
        """An edit differs inside a painted mask and nowhere else; row 0 is the reconstruction."""
        left = torch.zeros(1, 8 * self.latent[0], 8 * self.latent[1])
        left[..., : 4 * self.latent[1]] = 1
        self.control = make_control(
            self.clip, self.trajectory, self.target, "auto", TAUS, mask=left)
        self.rows = self._rows(self.control, self.embedding)
        source, target = self.rows.split(1)
        width = self.latent[1]
        inside = slice(0, width // 2 - 1)
        outside = slice(width // 2 + 1, width)
        changed = apart(target[..., inside], source[..., inside])
        kept = apart(target[..., outside], source[..., outside])
        moved = apart(source, self.alone)
        good = changed > CHANGED and kept == 0 and moved < ROUNDING[self.dtype]
        return Verdict(good, f"{100 * changed:.0f} %" + (
            "" if good else f", {kept:.1e} outside, {moved:.1e} in the source's row"))

    def edited(self, lines: str) -> Tensor:
        """VP latents [1 + targets, C, h, w] of targets, one a line, with nothing learnt."""
        return self._rows(make_control(self.clip, self.trajectory, lines, "auto", TAUS), None)

    def save(self) -> Verdict:
        """A trajectory and its embedding from a file edit to the same bits."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chain.safetensors"
            inversion_file.save(path, self.trajectory, self.embedding)
            trajectory, embedding = inversion_file.load(path)
        found = self._rows(self.control, embedding, trajectory)
        return Verdict(torch.equal(self.rows, found), "")

    def _rows(self, control: Control | None, embedding: Embedding | None,
              trajectory: Trajectory | None = None) -> Tensor:
        """VP latents [1 + targets, C, h, w] on the CPU."""
        found = sample_edits(Edit(
            self.model, trajectory or self.trajectory, embedding, control, self.guidance))
        rows: Tensor = self.model.get_model_object("latent_format").process_in(
            found["samples"].float().cpu())
        return rows


def apart(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|."""
    return float((found - wanted).norm() / wanted.norm())
