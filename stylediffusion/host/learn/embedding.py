"""Learning embeddings inside the host: gradients, precision, progress, preview, interrupt."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...method.adam import AdamSchedule, AdamSolver
from ...method.data import NULL_TEXT, Conditioning, InnerLoss, Trajectory, ValueEmbedding
from ...method.layers import supervising_layers
from ...method.learning import (
    LearningRun,
    LearningStep,
    Learnt,
    Solver,
    Watch,
    learn,
)
from ...method.preconditioner import channel_root, token_root, whitened_values
from ...method.quasi_newton import QuasiNewtonSolver, learn_together
from ...method.value_embedding import CHUNK_TOKENS, make_mapping
from ..autograd.clone import differentiable_clone
from ..caching import require_every_step
from ..control_nets import FrozenControlNet, control_net_of, under, with_copied_skips
from ..edit.guider import stacked
from ..model import (
    ModelPatcher,
    fingerprint,
    warn_if_other,
)
from ..vision import image_tokens
from . import memory
from .guidance import require_plain_guidance
from .negative_prompt import NEGATIVE_PROMPT, negative_prompt_embedding
from .request import LearningRequest, prompt_request
from .tasks import LearningBar, LearningTask, in_groups
from .unet import HostLearningModel
from .unfinished_run import RestingPlace, RunWriter, resting_place

log = logging.getLogger("stylediffusion")


class LearningSampler(comfy.samplers.Sampler):
    """Runs the learning where the host's guider would sample; the results stay in `learnt`."""

    def __init__(
        self, patcher: ModelPatcher, trajectories: Sequence[Trajectory],
        image_tokens: Tensor | None, request: LearningRequest, watches: Sequence[HostWatch],
    ) -> None:
        self.patcher, self.trajectories, self.image_tokens = patcher, trajectories, image_tokens
        self.request, self.watches = request, watches
        self.learnt: list[Learnt] = []
        self._channels: Tensor | None = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
        noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the guider with the model ready; returns the latent unchanged."""
        trajectory, others = self.trajectories[0], model_wrap.loaded_models
        latents = trajectory.latents.clone().to(latent_image.device)
        layers = supervising_layers(trajectory.layers, *latents.shape[-2:])
        model = HostLearningModel(
            model_wrap, extra_args["model_options"], trajectory.levels, sigmas, layers,
            self.request.kind)
        first = model.of_pictures([0])
        with torch.no_grad():
            require_every_step(
                self.patcher, model.options, len(latents) - 1, lambda level, options: first.guided(
                    model_wrap, latents[level : level + 1], level, options))
        require_plain_guidance(self.patcher, first, model_wrap, latents)
        memory.begin_peak(latents.device)
        memory.load_whole(self.patcher, others)
        with torch.enable_grad():
            width, maps = trajectory.positive[0][0].shape[-1], self.request.attends
            preview = memory.preview_bytes(self.watches[0].previewer, latents)
            needed = first.keeps(latents[-1:], width, maps, preview)
            room = memory.make_room(
                self.patcher, others, replace(needed, pictures=len(self.trajectories)))
        model.checkpoints = room.checkpoints
        for places in room.portions():
            with torch.enable_grad():
                self.learnt += self._learn(model, places, latents.device)
            for watch in self.watches[places.start : places.stop]:
                watch.writer.finish()
        memory.report(room, latents.device)
        return latent_image

    def _learn(
        self, model: HostLearningModel, places: range, device: torch.device
    ) -> list[Learnt]:
        """Some of the pictures side by side, or one."""
        runs = [self._run(model.of_pictures([place]), place, device) for place in places]
        if len(runs) == 1:
            return [learn(model.of_pictures(places), runs[0])]
        return learn_together(
            lambda rows: model.of_pictures([places[row] for row in rows]), runs)

    def _run(
        self, model: HostLearningModel, place: int, device: torch.device
    ) -> LearningRun[Any]:
        trajectory, watch = self.trajectories[place], self.watches[place]
        latents = trajectory.latents.clone().to(device)
        solver = self._solver(model, trajectory, latents)
        begun = watch.begun(solver, model, latents[-1:])
        return LearningRun(
            latents, trajectory.levels, solver, self.request.settings, watch, begun)

    def _solver(
        self, model: HostLearningModel, trajectory: Trajectory, latents: Tensor
    ) -> Solver:
        request, tokens, device = self.request, self.image_tokens, latents.device
        prompt = trajectory.negative if request.kind == NULL_TEXT else trajectory.positive
        context = prompt[0][0].clone()
        if isinstance(request.schedule, AdamSchedule):
            tokens = None if tokens is None else tokens.clone().to(device, torch.float32)
            mapping = make_mapping(context, tokens, request.seed, request.form).to(device)
            return AdamSolver(mapping, tokens, request.schedule)
        middle = trajectory.steps // 2
        heard = context[0, :CHUNK_TOKENS].to(device, torch.float32)
        rows = token_root(model.token_gram(latents[middle : middle + 1], middle + 1))
        if self._channels is None:
            self._channels = channel_root(model.channel_gram(heard))
        values = whitened_values(request.form, heard, rows, self._channels)
        return QuasiNewtonSolver(torch.zeros_like(heard), values, request.schedule)


class HostWatch(Watch):
    """The host's progress bar and time left, with previews, and the file to go on from.

    Steps that stop early give their share of the bar at once. `first` is the noise found in the
    first latent before anything is learnt: a later run goes on from this one where it is the same.
    """

    first: Tensor

    def __init__(
        self, model: ModelPatcher, trajectory: Trajectory, request: LearningRequest,
        place: RestingPlace, bar: LearningBar | None = None, picture: int = 0,
    ) -> None:
        self.levels, self.place, self.writer = trajectory.levels, place, RunWriter(place)
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
        if not os.path.isfile(self.place.path):
            return None
        with torch.no_grad():
            self.first = model.noise(latent, self.levels.steps)
        begun = self.place.begun(solver, self.first)
        if begun is not None:
            self.bar.reached[self.picture] = sum(self.counts[: begun.steps])
        return begun

    def keep(self, learnt: Learnt) -> None:
        """What a later run would go on from."""
        self.writer.keep(learnt, self.first)


def learn_value_embedding(
    model: ModelPatcher, trajectory: Trajectory, clip_vision: Any, image: Tensor | None,
    request: LearningRequest,
) -> ValueEmbedding:
    """Learn the value embedding of a trajectory; exact from an image's tokens where given."""
    return learn_embeddings([LearningTask(model, trajectory, request, clip_vision, image)])[0]


def learn_prompt_embedding(
    model: ModelPatcher, trajectory: Trajectory, kind: str, guidance: float = 7.5,
    inner_steps: int = 10, learning_rate: float = 1e-2,
) -> ValueEmbedding:
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
    return learn_embeddings([LearningTask(model, trajectory, request)])[0]


def learn_embeddings(tasks: Sequence[LearningTask]) -> list[ValueEmbedding]:
    """Learn the embeddings of several pictures, side by side where they can be, in order.

    A run that was stopped goes on after its last finished step when it is asked for again, and so
    does every picture of several. Raises ValueError for what cannot be learnt, before anything is.
    """
    tasks = [task.checked() for task in tasks]
    bar = LearningBar([sum(task.evaluations()) for task in tasks])
    watches: dict[int, HostWatch] = {}
    found: dict[int, ValueEmbedding] = {}
    try:
        for group in in_groups(tasks):
            found |= _learn_group(tasks, group, watches, bar)
    except BaseException:
        for watch in watches.values():
            watch.writer.finish()
        bar.time_left.end("stopped after")
        raise
    for watch in watches.values():
        watch.writer.clear()
    bar.time_left.end("learnt in")
    return [found[place] for place in range(len(tasks))]


def _learn_group(
    tasks: Sequence[LearningTask], group: Sequence[int], watches: dict[int, HostWatch],
    bar: LearningBar,
) -> dict[int, ValueEmbedding]:
    """Those that share a model and a request; their watches are put among the others."""
    task, ways = tasks[group[0]], [tasks[place].trajectory for place in group]
    model, request = task.model, task.request
    own = fingerprint(model)
    for way in ways:
        warn_if_other(model, way.fingerprint, "the trajectory", own)
    tokens = None if task.image is None else image_tokens(task.clip_vision, task.image)
    files = [resting_place(way, tokens, own, request) for way in ways]
    memory.require_room_for_copy(model)
    with torch.inference_mode(False):
        clone = differentiable_clone(model)
        watches |= {place: HostWatch(model, way, request, file, bar, place)
                    for place, way, file in zip(group, ways, files, strict=True)}
        sampler = LearningSampler(
            clone, ways, tokens, request, [watches[place] for place in group])
        _run(clone, ways, sampler)
    return {place: ValueEmbedding(
        learnt.scale, learnt.shift, request.settings.guidance, way.prompt, own,
        tuple(learnt.losses), request.kind, way.ends,
    ) for place, way, learnt in zip(group, ways, sampler.learnt, strict=True)}


def loss_map(embedding: ValueEmbedding) -> dict[str, list[float]] | ExecutionBlocker:
    """Every loss, in the form that the host's loss graph draws; it does not run without any."""
    if not embedding.losses:
        return ExecutionBlocker(None)
    return {"loss": [loss.total for loss in embedding.losses]}


def _run(
    model: ModelPatcher, trajectories: Sequence[Trajectory], sampler: LearningSampler
) -> None:
    """Have the host make everything ready, for a latent like each and the prompts of all."""
    guider, trajectory = comfy.samplers.CFGGuider(model), trajectories[0]
    positive, negative = (_normal(stacked(prompts)) for prompts in (
        [way.positive for way in trajectories], [way.negative for way in trajectories]))
    control_net = control_net_of(positive)
    frozen = None if control_net is None else FrozenControlNet(control_net)
    if frozen is not None:
        positive, negative = under(frozen, positive), under(frozen, negative)
        guider.model_options = with_copied_skips(guider.model_options)
    guider.set_conds(positive, negative)
    guider.set_cfg(sampler.request.settings.guidance)
    start = trajectory.noise.clone()
    try:
        with torch.no_grad():
            guider.sample(
                torch.zeros_like(start), start, sampler,
                trajectory.levels.sigmas.to(torch.float32), disable_pbar=True,
            )
    finally:
        if frozen is not None:
            frozen.forget()


def _normal(conditioning: Conditioning) -> Conditioning:
    """A copy of conditioning that autograd accepts."""
    return [
        (tensor.clone(), {k: v.clone() if isinstance(v, Tensor) else v for k, v in extra.items()})
        for tensor, extra in conditioning
    ]
