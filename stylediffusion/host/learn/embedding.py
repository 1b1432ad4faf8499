"""Learning embeddings: what a node asks for, and what of an earlier run is gone on from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...method.data import (
    NULL_TEXT,
    Embedding,
    PromptEmbedding,
    Trajectory,
    ValueEmbedding,
)
from ...method.learning import Learnt
from ..autograd.clone import differentiable_clone
from ..model import ModelPatcher, fingerprint, warn_if_other
from ..vision import image_tokens
from . import memory
from .learner import Learner
from .negative_prompt import NEGATIVE_PROMPT, negative_prompt_embedding
from .request import LearningRequest, prompt_request
from .tasks import LearningBar, LearningTask, in_groups
from .unfinished_run import run_file
from .watch import HostWatch

log = logging.getLogger("stylediffusion")


def learn_value_embedding(
    model: ModelPatcher, trajectory: Trajectory, clip_vision: Any, image: Tensor | None,
    request: LearningRequest,
) -> ValueEmbedding:
    """Learn the value embedding of a trajectory; exact from an image's tokens where given."""
    task = LearningTask(model, trajectory, request, clip_vision, image)
    (embedding,) = learn_embeddings([task])
    assert isinstance(embedding, ValueEmbedding)
    return embedding


def learn_prompt_embedding(
    model: ModelPatcher, trajectory: Trajectory, kind: str, guidance: float = 7.5,
    inner_steps: int = 10, learning_rate: float = 1e-2,
) -> PromptEmbedding:
    """Null-text inversion (Mokady et al. 2022), or the same with the source prompt's embedding.

    At most so many updates at every step, with the released code's learning rates and early stop.
    The kind `NEGATIVE_PROMPT` learns nothing.
    """
    if kind == NEGATIVE_PROMPT:
        return negative_prompt_embedding(model, trajectory, guidance)
    if kind == NULL_TEXT and guidance == 1:
        log.warning(
            "guidance is 1, where nothing is guided away from the negative prompt, so a null text "
            "learns nothing; set guidance to what you will sample with, such as 7.5")
    request = prompt_request(kind, guidance, inner_steps, learning_rate)
    (embedding,) = learn_embeddings([LearningTask(model, trajectory, request)])
    assert isinstance(embedding, PromptEmbedding)
    return embedding


def learn_embeddings(tasks: Sequence[LearningTask]) -> list[Embedding]:
    """Learn the embeddings of several pictures, side by side where they can be, in order.

    A run that was stopped goes on after its last finished step when it is asked for again, and so
    does every picture of several. Raises ValueError for what cannot be learnt, before anything is.
    """
    tasks = [task.checked() for task in tasks]
    bar = LearningBar([sum(task.evaluations()) for task in tasks])
    watches: dict[int, HostWatch] = {}
    embeddings: dict[int, Embedding] = {}
    try:
        for group in in_groups(tasks):
            embeddings |= _learn_group(tasks, group, watches, bar)
    except BaseException:
        for watch in watches.values():
            watch.writer.finish()
        bar.time_left.end("stopped after")
        raise
    for watch in watches.values():
        watch.writer.clear()
    bar.time_left.end("learnt in")
    return [embeddings[place] for place in range(len(tasks))]


def _learn_group(
    tasks: Sequence[LearningTask], group: Sequence[int], watches: dict[int, HostWatch],
    bar: LearningBar,
) -> dict[int, Embedding]:
    """Those that share a model and a request; their watches are put among the others."""
    task, trajectories = tasks[group[0]], [tasks[place].trajectory for place in group]
    model, request = task.model, task.request
    identity = fingerprint(model)
    for trajectory in trajectories:
        warn_if_other(model, trajectory.fingerprint, "the trajectory", identity)
    tokens = None if task.image is None else image_tokens(task.clip_vision, task.image)
    files = [run_file(trajectory, tokens, identity, request) for trajectory in trajectories]
    memory.require_room_for_copy(model)
    with torch.inference_mode(False):
        clone = differentiable_clone(model)
        watches |= {place: HostWatch(model, trajectory, request, file, bar, place)
                    for place, trajectory, file in zip(group, trajectories, files, strict=True)}
        results = Learner(
            clone, trajectories, tokens, request, [watches[place] for place in group]).run()
    return {place: _embedding(learnt, trajectory, identity, request)
            for place, trajectory, learnt in zip(group, trajectories, results, strict=True)}


def _embedding(
    learnt: Learnt, trajectory: Trajectory, identity: str, request: LearningRequest
) -> Embedding:
    """What was learnt, and that it was learnt with the model of a fingerprint."""
    origin: dict[str, Any] = {
        "guidance": request.settings.guidance, "prompt": trajectory.prompt, "fingerprint": identity,
        "losses": tuple(learnt.losses), "ends": trajectory.ends}
    if request.prompt_branch is None:
        return ValueEmbedding(learnt.scale, learnt.shift, **origin)
    return PromptEmbedding(learnt.shift, request.prompt_branch, **origin)


def loss_map(embedding: Embedding) -> dict[str, list[float]] | ExecutionBlocker:
    """Every loss, in the form that the host's loss graph draws; it does not run without any."""
    if not embedding.losses:
        return ExecutionBlocker(None)
    return {"loss": [loss.total for loss in embedding.losses]}
