"""What is seen of a learning run from outside: progress, previews, and the file to go on from."""

from __future__ import annotations

import os

import latent_preview
import torch
from torch import Tensor

from ...method.data import InnerLoss, Trajectory
from ...method.learning import LearningStep, Learnt, Solver, Watch
from ..model import ModelPatcher
from .request import LearningRequest
from .tasks import LearningBar, LearningTask
from .unet import HostLearningModel
from .unfinished_run import RunFile, RunWriter


class HostWatch(Watch):
    """The host's progress bar and time left, with previews, and the file to go on from.

    Steps that stop early give their share of the bar at once. `first` is the noise found in the
    first latent before anything is learnt: a later run goes on from this one where it is the same.
    """

    first: Tensor

    def __init__(
        self, model: ModelPatcher, trajectory: Trajectory, request: LearningRequest,
        file: RunFile, bar: LearningBar | None = None, picture: int = 0,
    ) -> None:
        self.levels, self.file, self.writer = trajectory.levels, file, RunWriter(file)
        self.counts = LearningTask(model, trajectory, request).evaluations()
        self.bar, self.picture = bar or LearningBar([sum(self.counts)]), picture
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def before_step(self, step: LearningStep) -> None:
        """Keep what was found in the first latent."""
        if step.index == 0:
            self.first = step.noise

    def after_inner(self, loss: InnerLoss) -> None:
        """One more inner step on the bar."""
        self.bar.show(self.picture, sum(self.counts[: loss.step]) + loss.inner + 1)

    def after_step(self, step: int, latent: Tensor, noise: Tensor) -> None:
        """A whole step on the bar, with a preview of the predicted clean latent."""
        preview = None
        if self.previewer is not None:
            alpha = self.levels.alpha(self.levels.steps - step)
            clean = (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5
            with torch.no_grad():
                preview = self.previewer.decode_latent_to_preview_image("JPEG", clean.detach())
        self.bar.show(self.picture, sum(self.counts[: step + 1]), preview)

    def begun(
        self, solver: Solver, model: HostLearningModel, latent: Tensor
    ) -> Learnt | None:
        """The earlier run to go on from, if it saw the first latent [1, C, h, w] as this does."""
        if not os.path.isfile(self.file.path):
            return None
        with torch.no_grad():
            self.first = model.noise(latent, self.levels.steps)
        begun = self.file.begun(solver, self.first)
        if begun is not None:
            self.bar.reached[self.picture] = sum(self.counts[: begun.steps])
        return begun

    def keep(self, learnt: Learnt) -> None:
        """What a later run would go on from."""
        self.writer.keep(learnt, self.first)
