"""Learning value embeddings inside the host: gradients, precision, progress, preview, interrupt."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..artifacts import (
    AttentionLayer,
    Conditioning,
    Trajectory,
    ValueEmbedding,
    supervising_layers,
)
from ..learning import InnerLoss, LearningSettings, Learnt, Solver, learn
from ..mapping import make_mapping
from ..schedule import Levels, vp_to_k
from ..solvers import NetworkSolver, QuasiNewtonSolver
from .attention import (
    MapRecorder,
    value_patch,
    with_differentiable_attention,
    with_patch,
    with_replacements,
)
from .model import (
    ModelPatcher,
    differentiable_clone,
    fingerprint,
    require_compatible,
    warn_if_other,
)


class HostLearningModel:
    """A loaded model as `stylediffusion.learning` wants it: VP latents in, VP noise out."""

    def __init__(
        self, guider: Any, model_options: dict[str, Any], levels: Levels, sigmas: Tensor,
        layers: tuple[AttentionLayer, ...],
    ) -> None:
        self.model, self.conds = guider.inner_model, guider.conds
        self.options = with_differentiable_attention(model_options)
        self.levels, self.sigmas, self.layers = levels, sigmas, layers

    def unconditional(self, latent: Tensor, level: int) -> Tensor:
        """eps under the negative prompt."""
        return self._noise(latent, level, [None, self.conds["negative"]], self.options)

    def conditional(
        self, latent: Tensor, level: int, scale: Tensor | None, shift: Tensor | None, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """eps and maps under the source prompt with the value input c * s + b."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        options, recorder = self.options, MapRecorder()
        if scale is not None and shift is not None:
            options = with_patch(options, "attn2_patch", value_patch(scale, shift))
        if maps:
            options = with_replacements(options, self.layers, recorder.replacement)
        noise = self._noise(latent, level, [self.conds["positive"], None], options)
        return noise, recorder.maps

    def _noise(
        self, latent: Tensor, level: int, conds: list[Any], options: dict[str, Any]
    ) -> Tensor:
        sigma = self.sigmas[level]
        x = vp_to_k(latent, float(sigma))
        found = comfy.samplers.calc_cond_batch(
            self.model, conds, x, sigma.expand(len(x)), options)
        denoised = found[0] if conds[0] is not None else found[1]
        return (x - denoised) / float(sigma)


class LearningSampler(comfy.samplers.Sampler):
    """Runs the learning where the host's guider would sample; the result stays in `learnt`."""

    def __init__(
        self, trajectory: Trajectory, image_tokens: Tensor | None, settings: LearningSettings,
        seed: int, fast: bool, callback: Any, progress: Any,
    ) -> None:
        self.trajectory, self.image_tokens = trajectory, image_tokens
        self.settings, self.seed, self.fast = settings, seed, fast
        self.callback, self.progress = callback, progress
        self.learnt: Learnt | None = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
        noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the guider with the model ready; returns the latent unchanged."""
        device, levels = latent_image.device, self.trajectory.levels
        latents = self.trajectory.latents.clone().to(device)
        tokens = self.image_tokens
        tokens = None if tokens is None else tokens.clone().to(device, torch.float32)
        width = self.trajectory.positive[0][0].shape[-1]
        solver: Solver
        if self.fast:
            solver = QuasiNewtonSolver(width, self.settings, device)
        else:
            mapping = make_mapping(width, tokens, self.seed).to(device)
            solver = NetworkSolver(mapping, tokens, self.settings)
        layers = supervising_layers(self.trajectory.layers, *latents.shape[-2:])
        model = HostLearningModel(model_wrap, extra_args["model_options"], levels, sigmas, layers)

        def after_step(step: int, latent: Tensor, noise: Tensor) -> None:
            alpha = levels.alpha(levels.steps - step)
            clean = (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5
            self.callback(step, clean, latent)

        with torch.enable_grad():
            self.learnt = learn(
                model, latents, levels, solver, self.settings, self.progress, after_step)
        return latent_image


class LearningProgress:
    """The host's progress bar over inner steps; steps that stop early give their share at once."""

    def __init__(
        self, model: ModelPatcher, settings: LearningSettings, steps: int, fast: bool
    ) -> None:
        self.counts = [settings.most_evaluations(i, fast) for i in range(steps)]
        self.total = sum(self.counts)
        self.bar = comfy.utils.ProgressBar(self.total)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def after_inner(self, loss: InnerLoss) -> None:
        """Called with every inner loss."""
        self.bar.update_absolute(sum(self.counts[: loss.step]) + loss.inner + 1, self.total)

    def after_step(self, step: int, clean: Tensor, latent: Tensor) -> None:
        """Called with the predicted clean latent of every finished step."""
        preview = None
        if self.previewer is not None:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", clean.detach())
        self.bar.update_absolute(sum(self.counts[: step + 1]), self.total, preview)


def learn_value_embedding(
    model: ModelPatcher, trajectory: Trajectory, clip_vision: Any, image: Tensor | None,
    settings: LearningSettings, seed: int, fast: bool,
) -> ValueEmbedding:
    """Learn the value embedding of a trajectory; exact from an image's tokens where given."""
    require_compatible(model, trajectory)
    warn_if_other(model, trajectory.fingerprint, "the trajectory")
    if (clip_vision is None) != (image is None):
        missing = "clip_vision" if clip_vision is None else "image"
        raise ValueError(f"{missing} is not connected; connect both clip_vision and image, or none")
    tokens = None if fast or image is None else image_tokens(clip_vision, image)
    progress = LearningProgress(model, settings, trajectory.steps, fast)
    with torch.inference_mode(False):
        sampler = LearningSampler(
            trajectory, tokens, settings, seed, fast, progress.after_step,
            progress.after_inner)
        _run(differentiable_clone(model), trajectory, sampler)
    assert sampler.learnt is not None
    return ValueEmbedding(
        sampler.learnt.scale, sampler.learnt.shift, settings.guidance, trajectory.prompt,
        fingerprint(model), tuple(sampler.learnt.losses),
    )


def _run(model: ModelPatcher, trajectory: Trajectory, sampler: LearningSampler) -> None:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(_normal(trajectory.positive), _normal(trajectory.negative))
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


def image_tokens(clip_vision: Any, image: Tensor) -> Tensor:
    """All tokens of the vision tower [1, n, d] for one image, after the tower's last norm."""
    if len(image) > 1:
        raise ValueError(f"image holds {len(image)} pictures, but one is learnt; pick one of them")
    found = clip_vision.encode_image(image, crop=False)["last_hidden_state"]
    tower = getattr(clip_vision.model, "vision_model", None)
    norm = getattr(tower, "post_layernorm", None)
    return found.float() if norm is None else norm(found.to(_device(norm))).float().cpu()


def _device(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device
