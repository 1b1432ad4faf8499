"""One edited sampling step beside one plain step of the host on the same batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reference.textbook import Controller, Edit, Settings
from stylediffusion.host import model as host_model
from stylediffusion.host.edit.between_steps import BetweenSteps
from stylediffusion.host.edit.patches import EditRun
from stylediffusion.host.text_encoder import stacked
from stylediffusion.method import schedule
from stylediffusion.method.alignment import Alignment
from stylediffusion.method.data import ValueEmbedding
from stylediffusion.method.edit_plan import make_plan
from stylediffusion.method.layers import supervising_layers
from stylediffusion.method.prompt_to_prompt import Control, Target, Window, WordMasks

from .subjects import Subject, layers_of, on_stage

STEPS, STEP, TOKENS, WORD = 30, 5, 77, 2
MODES = ("replace", "replace+blend", "refine")
Work = Callable[[], Any]


def make_control(subject: Subject, mode: str) -> Control:
    """One target, every window open; Refine keeps half of the tokens its own."""
    aligned = torch.ones(TOKENS)
    if mode == "refine":
        aligned[TOKENS // 2 :] = 0
    word = torch.zeros(TOKENS)
    word[WORD] = 1
    target = Target("", mode, subject.negative, Alignment(torch.eye(TOKENS) * aligned, aligned),
                    blend=WordMasks(word, word) if "blend" in mode else None)
    always = Window(0.0, 1.0)
    return Control("", (target,), always, always, always, Window(0.0, 0.0))


class EditSteps:
    """A step of the source and one target under guidance: call it inside `on_stage`."""

    def __init__(self, subject: Subject, mode: str, model: Any, options: dict[str, Any],
                 sigmas: Tensor) -> None:
        self.model, self.options, self.sigma = model, options, sigmas[STEP].expand(2)
        self.x = subject.latent.repeat(2, 1, 1, 1) * float(1 + sigmas[STEP] ** 2) ** 0.5
        layers = layers_of(model, options, sigmas[STEP], self.x[:1])
        self.supervising = supervising_layers(layers, *self.x.shape[-2:])
        self.keys = [(x.block, x.number) for x in layers]
        width = subject.positive[0][0].shape[-1]
        embedding = ValueEmbedding(torch.ones(STEPS, TOKENS, width),
                                   torch.zeros(STEPS, TOKENS, width),
                                   guidance=7.5, prompt="", fingerprint="")
        self.control = make_control(subject, mode)
        plan = make_plan(self.control, embedding, STEPS, self.x.device)
        self.run = EditRun(plan, layers, self.supervising)
        self.run.step = STEP
        self.after = BetweenSteps(self.run, self.control, None)

    def plain(self) -> Tensor:
        """The host's own guided step."""
        with torch.no_grad():
            found: Tensor = self.model(self.x, self.sigma, model_options=self.options)
            return found

    def edited(self) -> Tensor:
        """The same batch with the value embedding, both injections and, where asked, the blend."""
        with torch.no_grad():
            found = self.model(
                self.x, self.sigma, model_options=self.run.options(self.options))
            return self.after(STEP, found)

    def textbook(self) -> Work:
        """The same edit by a controller that makes every map."""
        target = self.control.targets[0]
        words = ([WORD], [WORD]) if self.control.blends else None
        edit = Edit(target.conditioning[0][0], target.alignment.mapper, target.alignment.aligned,
                    words=words)
        always = (0.0, 1.0)
        controller = Controller([edit], Settings(always, always, always, (0.0, 0.0)), STEPS,
                                self.supervising[0].tokens)
        controller.step = STEP
        replaced = {"attn1": controller.self_attention, "attn2": controller.cross_attention}
        transformer = {**self.options["transformer_options"], "patches_replace": {
            name: dict.fromkeys(self.keys, attend) for name, attend in replaced.items()}}
        options = {**self.options, "transformer_options": transformer}

        def run() -> None:
            with torch.no_grad():
                self.model(self.x, self.sigma, model_options=options)
            controller.mask(0, *self.x.shape[-2:])
            controller.read = [[]]

        return run


def with_edit_steps(subject: Subject, mode: str, work: Callable[[EditSteps], None]) -> None:
    """Run work with the host's model ready, its batch holding the source and the target."""
    levels = schedule.make_levels(STEPS, host_model.training_alphas(subject.model))
    sigmas = levels.sampling_sigmas()
    target = make_control(subject, mode).targets[0]

    def on(model: Any, options: dict[str, Any], sigmas: Tensor) -> None:
        work(EditSteps(subject, mode, model, options, sigmas))

    on_stage(subject, sigmas, on, stacked([subject.positive, target.conditioning]))
