"""Many targets in as few batches as memory and the lengths of their prompts allow."""

from __future__ import annotations

import math
from dataclasses import replace

import comfy.model_management
import torch
from torch import Tensor

from ...method.data import Trajectory
from ...method.prompt_to_prompt import Control
from ..model import ModelPatcher

MARGIN = 1.5


def portions(model: ModelPatcher, trajectory: Trajectory, control: Control | None
             ) -> list[list[int]]:
    """Which targets run at once beside the source: indices, each in one portion.

    Prompts of 4 and 5 chunks run apart: together each would be repeated to 20.
    """
    count = 0 if control is None else len(control.targets)
    if control is None or count < 2:
        return [list(range(count))]
    most = math.ceil(count / math.ceil(count / targets_at_once(model, trajectory, count)))
    groups: list[list[int]] = []
    lengths: list[int] = []
    for i, target in enumerate(control.targets):
        length = math.lcm(*target.alignment.mapper.shape)
        for place, portion in enumerate(groups):
            both = math.lcm(length, lengths[place])
            if len(portion) < most and both == max(length, lengths[place]):
                portion.append(i)
                lengths[place] = both
                break
        else:
            groups.append([i])
            lengths.append(length)
    return groups


def portion_of(control: Control | None, chosen: list[int]) -> Control | None:
    """A control of some of the targets."""
    if control is None:
        return None
    return replace(control, targets=tuple(control.targets[i] for i in chosen))


def joined(rows: list[Tensor], chosen: list[list[int]]) -> Tensor:
    """Rows [targets, ...] of all portions, in the order of the whole control's targets."""
    order = [i for portion in chosen for i in portion]
    stacked = torch.cat(rows)
    return stacked if order == sorted(order) else stacked[torch.tensor(order).argsort()]


def targets_at_once(model: ModelPatcher, trajectory: Trajectory, count: int) -> int:
    """How many of `count` targets fit beside the source, by the host's estimate; at least one.

    The host puts other models aside for them, but not this one's weights.
    """

    def needed(rows: int) -> float:
        return MARGIN * model.memory_required([1 + rows, *trajectory.latents.shape[1:]])

    comfy.model_management.load_models_gpu(
        [model], memory_required=needed(count), minimum_memory_required=needed(1))
    free = model.get_free_memory(model.load_device)
    return next((rows for rows in range(count, 1, -1) if needed(rows) <= free), 1)
