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

from ..artifacts import (
    NULL_TEXT,
    VALUE_EMBEDDING,
    AttentionLayer,
    Conditioning,
    Trajectory,
    ValueEmbedding,
    supervising_layers,
)
from ..learning import InnerLoss, LearningSettings, Learnt, Solver, Watch, learn
from ..mapping import CHUNK_TOKENS, PLAIN, SCALE_AND_SHIFT, make_mapping, start_rows
from ..schedule import Levels, vp_to_k
from ..solvers import NetworkSolver, QuasiNewtonSolver
from . import memory
from .attention import (
    CONDITIONAL,
    HEARD_BY,
    MapRecorder,
    prompt_patch,
    value_patch,
    with_differentiable_attention,
    with_patch,
    with_replacements,
)
from .control_nets import FrozenControlNet, control_net_of, under, with_copied_skips
from .model import (
    ModelPatcher,
    differentiable_clone,
    fingerprint,
    require_compatible,
    warn_if_other,
)
from .resuming import RestingPlace, resting_place
from .vision import image_tokens


@dataclass(frozen=True)
class LearningWishes:
    """What a person may choose: preset, M's form and seed, constants, and what is learnt."""

    settings: LearningSettings = LearningSettings()
    fast: bool = True
    form: str = SCALE_AND_SHIFT
    seed: int = 0
    kind: str = VALUE_EMBEDDING


class HostLearningModel:
    """A loaded model as `stylediffusion.learning` wants it: VP latents in, VP noise out.

    `kind` is what is learnt; the source prompt or the negative one hears it.
    """

    def __init__(
        self, guider: Any, model_options: dict[str, Any], levels: Levels, sigmas: Tensor,
        layers: tuple[AttentionLayer, ...], kind: str = VALUE_EMBEDDING,
    ) -> None:
        self.model, self.kind, self.branch = guider.inner_model, kind, HEARD_BY[kind]
        self.prompts = guider.conds["positive"], guider.conds["negative"]
        self.options = with_differentiable_attention(model_options)
        self.levels, self.sigmas, self.layers = levels, sigmas, layers

    def fixed(self, latent: Tensor, level: int) -> Tensor:
        """eps under the prompt that hears nothing of what is learnt."""
        return self._noise(latent, level, 1 - self.branch, self.options)

    def hearing(
        self, latent: Tensor, level: int, scale: Tensor | None, shift: Tensor | None, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """eps and maps under the prompt that hears c * s + b."""
        return self._hearing(self.options, latent, level, scale, shift, maps)

    def weight(self, guidance: float) -> float:
        """The share of `hearing` in guided noise."""
        return guidance if self.branch == CONDITIONAL else 1 - guidance

    def keeps(self, latent: Tensor, width: int, maps: bool) -> memory.Estimate:
        """What a forward pass on a latent [1, C, h, w] keeps for its backward pass."""
        scale, shift = torch.ones(2, CHUNK_TOKENS, width, device=latent.device, requires_grad=True)

        def forward(options: dict[str, Any], corner: Tensor) -> Any:
            return self._hearing(options, corner, len(self.sigmas) - 1, scale, shift, maps)

        return memory.estimate(self.model, forward, self.options, latent)

    def _hearing(
        self, options: dict[str, Any], latent: Tensor, level: int, scale: Tensor | None,
        shift: Tensor | None, maps: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        recorder = MapRecorder()
        if scale is not None and shift is not None:
            patch = value_patch(scale, shift) if self.kind == VALUE_EMBEDDING else \
                prompt_patch(self.kind, scale[None], shift[None])
            options = with_patch(options, "attn2_patch", patch)
        if maps:
            options = with_replacements(options, self.layers, recorder.replacement)
        return self._noise(latent, level, self.branch, options), recorder.maps

    def _noise(
        self, latent: Tensor, level: int, branch: int, options: dict[str, Any]
    ) -> Tensor:
        sigma = self.sigmas[level]
        conds = [prompt if i == branch else None for i, prompt in enumerate(self.prompts)]
        x = vp_to_k(latent, float(sigma))
        found = comfy.samplers.calc_cond_batch(
            self.model, conds, x, sigma.expand(len(x)), options)
        noise: Tensor = (x - found[branch]) / float(sigma)
        return noise


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
        solver = self._solver(latents.device)
        settings = self.wishes.settings
        with torch.enable_grad():
            width = self.trajectory.positive[0][0].shape[-1]
            room = memory.make_room(
                self.patcher, model.keeps(latents[-1:], width, settings.attention_weight > 0))
            if room.checkpoints:
                model.options = memory.with_checkpoints(model.options)
            begun = self.watch.place.begun(solver, latents[-1:])
            self.learnt = learn(
                model, latents, self.trajectory.levels, solver, settings, self.watch, begun)
        memory.report(room, latents.device)
        return latent_image

    def _solver(self, device: torch.device) -> Solver:
        wishes, tokens = self.wishes, self.image_tokens
        null = wishes.kind == NULL_TEXT
        prompt = self.trajectory.negative if null else self.trajectory.positive
        context = prompt[0][0].clone()
        if wishes.fast:
            return QuasiNewtonSolver(start_rows(wishes.form, context).to(device), wishes.settings)
        tokens = None if tokens is None else tokens.clone().to(device, torch.float32)
        mapping = make_mapping(context, tokens, wishes.seed, wishes.form).to(device)
        return NetworkSolver(mapping, tokens, wishes.settings)


class HostWatch(Watch):
    """The host's progress bar over inner steps, with previews, and the file to go on from.

    Steps that stop early give their share of the bar at once.
    """

    def __init__(
        self, model: ModelPatcher, trajectory: Trajectory, wishes: LearningWishes,
        place: RestingPlace,
    ) -> None:
        self.levels, self.place = trajectory.levels, place
        self.counts = [wishes.settings.most_evaluations(i, trajectory.steps, wishes.fast)
                       for i in range(trajectory.steps)]
        self.total = sum(self.counts)
        self.bar = comfy.utils.ProgressBar(self.total)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def after_inner(self, loss: InnerLoss) -> None:
        """One more inner step on the bar."""
        self.bar.update_absolute(sum(self.counts[: loss.step]) + loss.inner + 1, self.total)

    def after_step(self, step: int, latent: Tensor, noise: Tensor) -> None:
        """A whole step on the bar, with a preview of the predicted clean latent."""
        preview = None
        if self.previewer is not None:
            alpha = self.levels.alpha(self.levels.steps - step)
            clean = (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5
            preview = self.previewer.decode_latent_to_preview_image("JPEG", clean.detach())
        self.bar.update_absolute(sum(self.counts[: step + 1]), self.total, preview)

    def keep(self, learnt: Learnt) -> None:
        """What a later run would go on from."""
        self.place.keep(learnt)


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
    warn_if_other(model, trajectory.fingerprint, "the trajectory")
    place = resting_place(trajectory, tokens, fingerprint(model), wishes)
    memory.require_room_for_copy(model)
    with torch.inference_mode(False):
        clone = differentiable_clone(model)
        watch = HostWatch(model, trajectory, wishes, place)
        sampler = LearningSampler(clone, trajectory, tokens, wishes, watch)
        _run(clone, trajectory, sampler)
    assert sampler.learnt is not None
    place.clear()
    return ValueEmbedding(
        sampler.learnt.scale, sampler.learnt.shift, wishes.settings.guidance, trajectory.prompt,
        fingerprint(model), tuple(sampler.learnt.losses), wishes.kind,
    )


def loss_map(embedding: ValueEmbedding) -> dict[str, list[float]]:
    """Every loss, in the form that the host's loss graph draws."""
    return {"loss": [loss.total for loss in embedding.losses]}


def _run(model: ModelPatcher, trajectory: Trajectory, sampler: LearningSampler) -> None:
    guider = comfy.samplers.CFGGuider(model)
    positive, negative = _normal(trajectory.positive), _normal(trajectory.negative)
    control_net = control_net_of(positive)
    if control_net is not None:
        frozen = FrozenControlNet(control_net)
        positive, negative = under(frozen, positive), under(frozen, negative)
        guider.model_options = with_copied_skips(guider.model_options)
    guider.set_conds(positive, negative)
    start = trajectory.noise.clone()
    with torch.no_grad():
        guider.sample(
            torch.zeros_like(start), start, sampler,
            trajectory.levels.sigmas.to(torch.float32), disable_pbar=True,
        )


def _normal(conditioning: Conditioning) -> Conditioning:
    """A copy of conditioning that autograd accepts."""
    return [
        (tensor.clone(), {k: v.clone() if isinstance(v, Tensor) else v for k, v in extra.items()})
        for tensor, extra in conditioning
    ]
