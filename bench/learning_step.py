"""One inner step of learning beside one plain forward pass of the host, and beside the textbook."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from stylediffusion.host import model as host_model
from stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion.host.latent_units import vp_to_k
from stylediffusion.host.learn.unet import HostLearningModel
from stylediffusion.method import adam, learning, schedule, value_embedding
from stylediffusion.method.layers import supervising_layers

from .subjects import Subject, layers_of, on_stage
from .textbook import TextbookLearning

log = logging.getLogger("bench")
STEPS, LEVEL, GUIDANCE = 30, 30, 7.5
Work = Callable[[], Any]


class InnerSteps:
    """Everything one inner step needs, with the host's model ready: call it inside `on_stage`."""

    def __init__(self, subject: Subject, model: Any, options: dict[str, Any], levels: Any) -> None:
        self.subject, self.wrapped, self.levels = subject, model, levels
        self.latent = subject.latent.clone()
        sigmas = levels.sigmas.float().to(self.latent.device)
        self.sigma = sigmas[LEVEL].reshape(1)
        self.layers = layers_of(model, options, self.sigma, self.latent)
        self.supervising = supervising_layers(self.layers, *self.latent.shape[-2:])
        self.ours = HostLearningModel(model, options, levels, sigmas, self.supervising)
        with torch.no_grad():
            tokens = subject.tower(subject.pixels, intermediate_output=-2)[0]
            self.tokens = subject.tower.vision_model.post_layernorm(tokens).clone()
            uncond = self.ours.noise(self.latent, LEVEL)
            maps = self.ours.maps(self.latent, LEVEL)
        alphas = levels.alpha(LEVEL), levels.alpha(LEVEL - 1)
        self.step = learning.LearningStep(
            0, STEPS, LEVEL, alphas, self.latent, uncond, torch.zeros_like(self.latent), maps,
            learning.LearningSettings())

    def network(self) -> value_embedding.Mapping:
        """M as the exact preset makes it."""
        return value_embedding.make_mapping(
            self.subject.positive[0][0], self.tokens, 0, value_embedding.SCALE_AND_SHIFT
        ).to(self.latent.device)

    def plain(self) -> Work:
        """One conditional forward pass of the host, as it samples."""
        x = vp_to_k(self.latent, float(self.sigma))

        def forward() -> None:
            with torch.no_grad():
                comfy.samplers.calc_cond_batch(
                    self.wrapped.inner_model, [self.wrapped.conds["positive"], None], x,
                    self.sigma, {})

        return forward

    def inner(self, checkpoints: bool = False) -> Work:
        """Forward, both losses, backward, Adam on M."""
        solver = adam.AdamSolver(self.network(), self.tokens, adam.AdamSchedule())
        optimizer = torch.optim.Adam(solver.mapping.parameters(), lr=1e-2)
        if checkpoints:
            self.ours.checkpoints = Checkpoints.TRANSFORMERS

        def run() -> None:
            with torch.enable_grad():
                solver.inner_step(self.ours, self.step, optimizer, 0, lambda loss: None)

        return run

    def textbook(self) -> Work:
        """The same as the published code computes it."""
        book = TextbookLearning(self.subject, self.wrapped, self.sigma, self.network(),
                                self.layers, self.supervising)
        alphas = (self.levels.alpha(LEVEL), self.levels.alpha(LEVEL - 1))

        def run() -> None:
            with torch.enable_grad():
                book.step(self.latent, self.step.noise, self.step.wanted_latent,
                          self.step.wanted_maps, alphas, GUIDANCE)

        return run


def with_inner_steps(subject: Subject, work: Callable[[InnerSteps], None]) -> None:
    """Run work with the host's model ready."""
    levels = schedule.make_levels(STEPS, host_model.training_alphas(subject.model))

    def on(model: Any, options: dict[str, Any], sigmas: Tensor) -> None:
        work(InnerSteps(subject, model, options, levels))

    subject.model.model.requires_grad_(False)
    on_stage(subject, levels.sampling_sigmas(), on)
