"""Learning where the host would sample: trials, memory, solvers, and the pictures in portions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...method.adam import AdamSchedule, AdamSolver
from ...method.data import UNCONDITIONAL, Conditioning, Trajectory
from ...method.layers import supervising_layers
from ...method.learning import LearningRun, Learnt, Solver, learn
from ...method.preconditioner import channel_root, token_root, whitened_values
from ...method.quasi_newton import QuasiNewtonSolver, learn_together
from ...method.value_embedding import CHUNK_TOKENS, make_mapping
from ..caching import require_every_step
from ..control_nets import FrozenControlNet, control_net_of, under, with_copied_skips
from ..model import ModelPatcher
from ..stage import Stage, on_stage
from ..text_encoder import stacked
from . import memory
from .guidance import require_plain_guidance
from .request import LearningRequest
from .unet import HostLearningModel
from .watch import HostWatch


class Learner:
    """Learns pictures on the host's stage, side by side where they fit; `learnt` has the results.

    `patcher` is a MODEL that has gradients.
    """

    def __init__(
        self, patcher: ModelPatcher, trajectories: Sequence[Trajectory],
        image_tokens: Tensor | None, request: LearningRequest, watches: Sequence[HostWatch],
    ) -> None:
        self.patcher, self.trajectories, self.image_tokens = patcher, trajectories, image_tokens
        self.request, self.watches = request, watches
        self.learnt: list[Learnt] = []
        self._channels: Tensor | None = None

    def run(self) -> list[Learnt]:
        """Have the host make everything ready, for a latent like each and the prompts of all."""
        trajectory = self.trajectories[0]
        positive, negative = (_normal(stacked(prompts)) for prompts in (
            [each.positive for each in self.trajectories],
            [each.negative for each in self.trajectories]))
        control_net = control_net_of(trajectory)
        frozen = None if control_net is None else FrozenControlNet(control_net)
        self.reached = False
        try:
            with torch.no_grad():
                on_stage(
                    self.patcher, under(frozen, positive), under(frozen, negative),
                    trajectory.levels.sigmas.to(torch.float32), trajectory.noise.clone(),
                    self.work, cfg=self.request.settings.guidance)
        except BaseException:
            if frozen is not None and self.reached:
                frozen.cleanup()  # the host cleans up behind what succeeds only
            raise
        finally:
            if frozen is not None:
                frozen.forget()
        return self.learnt

    def work(self, stage: Stage) -> None:
        """Try how the model is sampled with, estimate memory, learn in portions that fit."""
        self.reached = True
        trajectory, others = self.trajectories[0], stage.guider.loaded_models
        latents = trajectory.latents.clone().to(stage.latent_vp.device)
        memory.begin_peak(latents.device)
        memory.load_whole(self.patcher, others)
        model = self._model(stage, trajectory)
        first = model.of_pictures([0])
        with torch.no_grad():
            require_every_step(
                self.patcher, model.options, len(latents) - 1, lambda level, options: first.guided(
                    stage.guider, latents[level : level + 1], level, options))
        require_plain_guidance(self.patcher, first, stage.guider, latents)
        with torch.enable_grad():
            width, maps = trajectory.positive[0][0].shape[-1], self.request.attends
            preview = memory.preview_bytes(self.watches[0].previewer, latents)
            needed = first.keeps(latents[-1:], width, maps, preview)
            plan = memory.plan_memory(
                self.patcher, others, replace(needed, pictures=len(self.trajectories)))
        model.checkpoints = plan.checkpoints
        for places in plan.portions():
            with torch.enable_grad():
                self.learnt += self._learn(model, places, latents.device)
            for watch in self.watches[places.start : places.stop]:
                watch.writer.finish()
        memory.report(plan, latents.device)

    def _model(self, stage: Stage, trajectory: Trajectory) -> HostLearningModel:
        options = stage.model_options
        if control_net_of(trajectory) is not None:
            options = with_copied_skips(options)
        layers = supervising_layers(trajectory.layers, *trajectory.latents.shape[-2:])
        return HostLearningModel(
            stage.guider, options, trajectory.levels, stage.sigmas, layers,
            self.request.prompt_branch)

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
        prompt = (trajectory.negative if request.prompt_branch == UNCONDITIONAL
                  else trajectory.positive)
        context = prompt[0][0].clone()
        if isinstance(request.schedule, AdamSchedule):
            tokens = None if tokens is None else tokens.clone().to(device, torch.float32)
            mapping = make_mapping(context, tokens, request.seed, request.form).to(device)
            return AdamSolver(mapping, tokens, request.schedule)
        middle = trajectory.steps // 2
        first_chunk = context[0, :CHUNK_TOKENS].to(device, torch.float32)
        rows = token_root(model.token_gram(latents[middle : middle + 1], middle + 1))
        if self._channels is None:
            self._channels = channel_root(model.channel_gram(first_chunk))
        values = whitened_values(request.form, first_chunk, rows, self._channels)
        return QuasiNewtonSolver(torch.zeros_like(first_chunk), values, request.schedule)


def _normal(conditioning: Conditioning) -> Conditioning:
    """A copy of conditioning that autograd accepts."""
    return [
        (tensor.clone(), {k: v.clone() if isinstance(v, Tensor) else v for k, v in extra.items()})
        for tensor, extra in conditioning
    ]
