"""Which pictures can be learnt together, and one progress bar over all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
from torch import Tensor

from ...method.adam import AdamSchedule
from ...method.data import Trajectory
from ...method.learning import LearningSettings
from ...method.quasi_newton import QuasiNewtonSchedule
from ...method.value_embedding import SCALE_AND_SHIFT
from ..control_nets import control_net_of
from ..model import ModelPatcher, require_compatible
from ..text_encoder import hooks_of
from .request import LearningRequest
from .time_left import TimeLeft


@dataclass(frozen=True)
class LearningTask:
    """One picture to learn; exact from an image's tokens where a tower and an image are given."""

    model: ModelPatcher
    trajectory: Trajectory
    request: LearningRequest
    clip_vision: Any = None
    image: Tensor | None = None

    def checked(self) -> LearningTask:
        """The same, as its preset learns it; raises ValueError for what cannot be learnt.

        The fast preset leaves the attention loss out: it holds the latents, and with them the maps;
        and it looks at no image.
        """
        if (self.clip_vision is None) != (self.image is None):
            missing = "clip_vision" if self.clip_vision is None else "image"
            raise ValueError(
                f"{missing} is not connected; connect both clip_vision and image, or none")
        require_compatible(self.model, self.trajectory)
        if not isinstance(self.request.schedule, QuasiNewtonSchedule):
            return self
        settings = replace(self.request.settings, attention_weight=0.0)
        return replace(self, request=replace(self.request, settings=settings), clip_vision=None,
                       image=None)

    def evaluations(self) -> list[int]:
        """The most of every step."""
        steps, schedule = self.trajectory.steps, self.request.schedule
        return [schedule.most_evaluations(i, steps) for i in range(steps)]


def listed_tasks(**lists: Sequence[Any]) -> list[LearningTask]:
    """Learn Value Embedding's tasks, of lists as the host gives them: the last of a shorter one
    counts for all the rest."""
    count = max(map(len, lists.values()))
    return [value_task(**{name: held[min(i, len(held) - 1)] for name, held in lists.items()})
            for i in range(count)]


def value_task(
    model: Any, trajectory: Any, preset: str, guidance: float, seed: int, inner_steps: int = 100,
    learning_rate: float = 0.01, attention_weight: float = 1.0, form: str = SCALE_AND_SHIFT,
    clip_vision: Any = None, image: Any = None,
) -> LearningTask:
    """Learn Value Embedding's task of one picture, from the node's inputs."""
    schedule: AdamSchedule | QuasiNewtonSchedule = QuasiNewtonSchedule()
    if preset == "exact":
        schedule = AdamSchedule(inner_steps=inner_steps, learning_rate=learning_rate)
    settings = LearningSettings(guidance, attention_weight)
    return LearningTask(
        model, trajectory, LearningRequest(settings, schedule, form, seed), clip_vision, image)


def in_groups(tasks: Sequence[LearningTask]) -> list[list[int]]:
    """Places of tasks that can share their passes, others alone; each group in order.

    Those of the fast preset share a model, a request, levels, the shapes of latents and prompts,
    and have no ControlNet.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, task in enumerate(tasks):
        groups.setdefault(_shared(task) or place, []).append(place)
    return list(groups.values())


def _shared(task: LearningTask) -> Hashable:
    latents, trajectory = task.trajectory.latents, task.trajectory
    fast = isinstance(task.request.schedule, QuasiNewtonSchedule)
    if not fast or control_net_of(trajectory) is not None:
        return None
    prompts = trajectory.positive[0][0].shape, trajectory.negative[0][0].shape
    levels = tuple(trajectory.levels.alphas_cumprod.tolist())
    hooks = tuple(hooks_of(trajectory.positive) + hooks_of(trajectory.negative))
    return id(task.model), task.request, latents.shape, prompts, levels, trajectory.layers, hooks


class LearningBar:
    """The host's progress bar over the evaluations of all pictures, and the time left."""

    def __init__(self, most: Sequence[int]) -> None:
        self.reached, self.total = [0] * len(most), sum(most)
        self.bar, self.time_left = comfy.utils.ProgressBar(self.total), TimeLeft()

    def show(self, picture: int, reached: int, preview: Any = None) -> None:
        """Where one picture is; those of the others stay."""
        self.reached[picture] = reached
        self.bar.update_absolute(sum(self.reached), self.total, preview)
        self.time_left.done(sum(self.reached) / self.total)
