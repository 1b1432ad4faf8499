"""Learning embeddings inside the host: gradients, precision, progress, preview, interrupt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...method.data import (
    NULL_TEXT,
    VALUE_EMBEDDING,
    Conditioning,
    InnerLoss,
    Trajectory,
    ValueEmbedding,
)
from ...method.layers import supervising_layers
from ...method.learning import LearningSettings, Learnt, Solver, Watch, learn
from ...method.preconditioner import whitened_values
from ...method.solvers import NetworkSolver, QuasiNewtonSolver
from ...method.value_embedding import CHUNK_TOKENS, PLAIN, SCALE_AND_SHIFT, make_mapping
from ..control_nets import FrozenControlNet, control_net_of, under, with_copied_skips
from ..model import (
    ModelPatcher,
    differentiable_clone,
    fingerprint,
    require_compatible,
    warn_if_other,
)
from ..vision import image_tokens
from . import memory
from .guidance import require_plain_guidance
from .time_left import TimeLeft
from .unet import HostLearningModel
from .unfinished_run import RestingPlace, RunWriter, resting_place


@dataclass(frozen=True)
class LearningWishes:
    """What a person may choose: preset, M's form and seed, constants, and what is learnt."""

    settings: LearningSettings = LearningSettings()
    fast: bool = True
    form: str = SCALE_AND_SHIFT
    seed: int = 0
    kind: str = VALUE_EMBEDDING


class LearningSampler(comfy.samplers.Sampler):
    """Runs the learning where the host's guider would sample; the result stays in `learnt`."""

    def __init__(
        self, patcher: ModelPatcher, trajectory: Trajectory, image_tokens: Tensor | None,
        wishes: LearningWishes, watch: HostWatch,
    ) -> None:
        self.patcher, self.trajectory, self.image_tokens = patcher, trajectory, image_tokens
        self.wishes, self.watch = wishes, watch
        self.learnt: Learnt | None = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
        noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the guider with the model ready; returns the latent unchanged."""
        latents = self.trajectory.latents.clone().to(latent_image.device)
        layers = supervising_layers(self.trajectory.layers, *latents.shape[-2:])
        model = HostLearningModel(
            model_wrap, extra_args["model_options"], self.trajectory.levels, sigmas, layers,
            self.wishes.kind)
        others = model_wrap.loaded_models
        require_plain_guidance(self.patcher, model, model_wrap, latents)
        memory.begin_peak(latents.device)
        memory.load_whole(self.patcher, others)
        settings = self.wishes.settings
        with torch.enable_grad():
            width = self.trajectory.positive[0][0].shape[-1]
            needed = model.keeps(latents[-1:], width, settings.attention_weight > 0,
                                 memory.preview_bytes(self.watch.previewer, latents))
            room = memory.make_room(self.patcher, others, needed)
        model.checkpoints = room.checkpoints
        solver = self._solver(model, latents)
        with torch.enable_grad():
            begun = self.watch.begun(solver, model, latents[-1:])
            self.learnt = learn(
                model, latents, self.trajectory.levels, solver, settings, self.watch, begun)
        memory.report(room, latents.device)
        return latent_image

    def _solver(self, model: HostLearningModel, latents: Tensor) -> Solver:
        wishes, tokens, device = self.wishes, self.image_tokens, latents.device
        null = wishes.kind == NULL_TEXT
        prompt = self.trajectory.negative if null else self.trajectory.positive
        context = prompt[0][0].clone()
        if wishes.fast:
            middle = self.trajectory.steps // 2
            heard = context[0, :CHUNK_TOKENS].to(device, torch.float32)
            grams = model.grams(latents[middle : middle + 1], middle + 1, heard)
            return QuasiNewtonSolver(
                torch.zeros_like(heard), whitened_values(wishes.form, heard, *grams),
                wishes.settings)
        tokens = None if tokens is None else tokens.clone().to(device, torch.float32)
        mapping = make_mapping(context, tokens, wishes.seed, wishes.form).to(device)
        return NetworkSolver(mapping, tokens, wishes.settings)


class HostWatch(Watch):
    """The host's progress bar and time left, with previews, and the file to go on from.

    Steps that stop early give their share of the bar at once.
    """

    model: HostLearningModel

    def __init__(
        self, model: ModelPatcher, trajectory: Trajectory, wishes: LearningWishes,
        place: RestingPlace,
    ) -> None:
        self.levels, self.place, self.writer = trajectory.levels, place, RunWriter(place)
        self.counts = [wishes.settings.most_evaluations(i, trajectory.steps, wishes.fast)
                       for i in range(trajectory.steps)]
        self.total = sum(self.counts)
        self.bar, self.time_left = comfy.utils.ProgressBar(self.total), TimeLeft()
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def after_inner(self, loss: InnerLoss) -> None:
        """One more inner step on the bar."""
        self._reached(sum(self.counts[: loss.step]) + loss.inner + 1)

    def after_step(self, step: int, latent: Tensor, noise: Tensor) -> None:
        """A whole step on the bar, with a preview of the predicted clean latent."""
        preview = None
        if self.previewer is not None:
            alpha = self.levels.alpha(self.levels.steps - step)
            clean = (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5
            with torch.no_grad():
                preview = self.previewer.decode_latent_to_preview_image("JPEG", clean.detach())
        self._reached(sum(self.counts[: step + 1]), preview)

    def _reached(self, evaluations: int, preview: Any = None) -> None:
        self.bar.update_absolute(evaluations, self.total, preview)
        self.time_left.done(evaluations / self.total)

    def begun(
        self, solver: Solver, model: HostLearningModel, latent: Tensor
    ) -> Learnt | None:
        """The earlier run to go on from, if it saw the first latent [1, C, h, w] as this does."""
        self.model = model
        if not self.place.path.is_file():
            return None
        with torch.no_grad():
            return self.place.begun(solver, model.fixed(latent, self.levels.steps))

    def keep(self, learnt: Learnt) -> None:
        """What a later run would go on from."""
        self.writer.keep(learnt, self.model.first)


def learn_value_embedding(
    model: ModelPatcher, trajectory: Trajectory, clip_vision: Any, image: Tensor | None,
    wishes: LearningWishes,
) -> ValueEmbedding:
    """Learn the value embedding of a trajectory; exact from an image's tokens where given.

    The fast preset leaves the attention loss out: it holds the latents, and with them the maps.
    """
    if wishes.fast:
        wishes = replace(wishes, settings=replace(wishes.settings, attention_weight=0.0))
    if (clip_vision is None) != (image is None):
        missing = "clip_vision" if clip_vision is None else "image"
        raise ValueError(f"{missing} is not connected; connect both clip_vision and image, or none")
    tokens = None if wishes.fast or image is None else image_tokens(clip_vision, image)
    return _learn_embedding(model, trajectory, tokens, wishes)


def learn_prompt_embedding(
    model: ModelPatcher, trajectory: Trajectory, kind: str, guidance: float = 7.5,
    inner_steps: int = 10, learning_rate: float = 1e-2,
) -> ValueEmbedding:
    """Null-text inversion (Mokady et al. 2022), or the same with the source prompt's embedding.

    At most so many updates at every step, with the released code's learning rates and early stop.
    """
    settings = LearningSettings(
        guidance=guidance, inner_steps=inner_steps, inner_decay=0.0, learning_rate=learning_rate,
        attention_weight=0.0)
    return _learn_embedding(
        model, trajectory, None, LearningWishes(settings, fast=False, form=PLAIN, kind=kind))


def _learn_embedding(
    model: ModelPatcher, trajectory: Trajectory, tokens: Tensor | None, wishes: LearningWishes
) -> ValueEmbedding:
    """A run that was stopped goes on after its last finished step when it is asked for again."""
    require_compatible(model, trajectory)
    own = fingerprint(model)
    warn_if_other(model, trajectory.fingerprint, "the trajectory", own)
    place = resting_place(trajectory, tokens, own, wishes)
    memory.require_room_for_copy(model)
    with torch.inference_mode(False):
        clone = differentiable_clone(model)
        watch = HostWatch(model, trajectory, wishes, place)
        sampler = LearningSampler(clone, trajectory, tokens, wishes, watch)
        try:
            _run(clone, trajectory, sampler)
        except BaseException:
            watch.writer.finish()
            watch.time_left.end("stopped after")
            raise
    assert sampler.learnt is not None
    watch.writer.clear()
    watch.time_left.end("learnt in")
    return ValueEmbedding(
        sampler.learnt.scale, sampler.learnt.shift, wishes.settings.guidance, trajectory.prompt,
        own, tuple(sampler.learnt.losses), wishes.kind,
    )


def loss_map(embedding: ValueEmbedding) -> dict[str, list[float]]:
    """Every loss, in the form that the host's loss graph draws."""
    return {"loss": [loss.total for loss in embedding.losses]}


def _run(model: ModelPatcher, trajectory: Trajectory, sampler: LearningSampler) -> None:
    guider = comfy.samplers.CFGGuider(model)
    positive, negative = _normal(trajectory.positive), _normal(trajectory.negative)
    control_net = control_net_of(positive)
    frozen = None if control_net is None else FrozenControlNet(control_net)
    if frozen is not None:
        positive, negative = under(frozen, positive), under(frozen, negative)
        guider.model_options = with_copied_skips(guider.model_options)
    guider.set_conds(positive, negative)
    guider.set_cfg(sampler.wishes.settings.guidance)
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
