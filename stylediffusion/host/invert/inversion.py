"""DDIM inversion through the host's own sampling road: loading, conditioning, patches, cleaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.controlnet import ControlBase
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ...method.data import Conditioning, Trajectory
from ...method.ddim import invert
from ...method.layers import AttentionLayer
from ...method.schedule import Levels, make_levels, vp_to_k
from .. import text_encoder
from ..attention import LayerFinder, uncompiled, with_patch
from ..control_nets import under
from ..inputs import VAE_OVERFLOW, require_given, require_text, samples_of
from ..model import ModelPatcher, fingerprint, training_alphas

Callback = Callable[[int, Tensor, Tensor, int], None]


class InversionSampler(comfy.samplers.Sampler):
    """Walks the latent upward; the whole VP trajectory stays in `latents` [N + 1, C, h, w]."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels
        self.latents: Tensor | None = None
        self.layers: tuple[AttentionLayer, ...] = ()

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any],
        callback: Callback | None, noise: Tensor, latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the guider with the model ready; returns the k-diffusion latent at level N."""
        finder = LayerFinder()
        probing = finding(extra_args["model_options"], finder)
        plain = {**extra_args}
        shown: dict[str, Tensor] = {}

        def predict_noise(latent: Tensor, level: int) -> Tensor:
            sigma = float(sigmas[level])
            x = vp_to_k(latent, sigma)
            args = {**plain, "model_options": probing} if level == 1 else plain
            shown["x0"] = model_wrap(x, sigmas[level].expand(len(x)), **args)
            return (x - shown["x0"]) / sigma

        def after_step(k: int, latent: Tensor, noise: Tensor) -> None:
            if callback is not None:
                callback(k, shown["x0"], latent, self.levels.steps)

        trajectory = invert(predict_noise, latent_image, self.levels, after_step)
        self.latents = trajectory.to("cpu", torch.float32)
        self.layers = tuple(finder.found.values())
        return vp_to_k(trajectory[-1:], float(sigmas[-1]))


def finding(model_options: dict[str, Any], finder: LayerFinder) -> dict[str, Any]:
    """A copy of model options under which a finder sees every layer, even of a compiled model."""
    return with_patch(uncompiled(model_options), "attn2_patch", finder.patch)


def require_unet(model: ModelPatcher | None) -> None:
    """Raise ValueError unless a MODEL is a UNet with cross-attention, as the method's models are.

    Transformers, as PixArt and HunyuanDiT, may predict epsilon or v too, but have no such layers.
    """
    require_given(model, "MODEL", "Load Checkpoint")
    assert model is not None
    unet = model.model.diffusion_model
    unet = getattr(unet, "_orig_mod", unet)  # as torch.compile wraps it
    attends = isinstance(unet, UNetModel) and any(
        isinstance(part, BasicTransformerBlock) and part.attn2 is not None
        for part in unet.modules())
    if not attends:
        raise ValueError(
            f"this MODEL ({type(model.model).__name__}, a {type(unet).__name__}) is no UNet with "
            "cross-attention, whose layers are what StyleDiffusion edits; load a checkpoint of "
            "SD1.x, SD2.x or SDXL, or one finetuned or distilled from those, such as SSD-1B"
        )


def require_one_image(latent: dict[str, Any] | None) -> Tensor:
    """The samples [1, C, h, w] of a LATENT; raises ValueError for batches, masks and video."""
    samples = samples_of(latent, "VAE Encode", VAE_OVERFLOW)
    if len(samples) > 1:
        raise ValueError(
            f"the latent holds {len(samples)} images, but one image is inverted at a time; pick "
            "one with Latent From Batch"
        )
    if latent is not None and latent.get("noise_mask") is not None:
        raise ValueError(
            "the latent has a noise mask, which an inversion cannot follow; encode the picture "
            "with VAE Encode instead of an inpainting encoder, or remove Set Latent Noise Mask"
        )
    return samples


def require_own_latent(model: ModelPatcher, samples: Tensor) -> None:
    """Raise ValueError unless samples [1, C, h, w] have the channels of the model's latents."""
    channels = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != channels:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels, but the MODEL "
            f"({type(model.model).__name__}) works on {channels}; encode the picture with the VAE "
            "of the same checkpoint"
        )


def invert_latent(
    model: ModelPatcher, clip: Any, latent: dict[str, Any] | None, prompt: str,
    negative_prompt: str, steps: int, control_net: ControlBase | None = None,
) -> Trajectory:
    """DDIM inversion of one LATENT under the source prompt, and a ControlNet, at guidance 1.

    Raises ValueError for a model or a latent that cannot be inverted, and for an empty prompt.
    """
    require_unet(model)
    samples = require_one_image(latent)
    require_own_latent(model, samples)
    require_text(prompt, "prompt")
    require_text(negative_prompt, "negative_prompt")
    if not prompt.strip():
        raise ValueError(
            "the prompt is empty; describe the picture in a few words, since its words are what "
            "can be edited"
        )
    levels = make_levels(steps, training_alphas(model))
    positive, negative = (
        under(control_net, text_encoder.encode(clip, words)) for words in (prompt, negative_prompt))
    own = fingerprint(model)
    sampler = run_inversion(model, samples, positive, levels)
    assert sampler.latents is not None
    return Trajectory(
        sampler.latents, levels, prompt, negative_prompt, positive, negative, sampler.layers,
        own,
    )


def run_inversion(
    model: ModelPatcher, samples: Tensor, positive: Conditioning, levels: Levels
) -> InversionSampler:
    """Drive an InversionSampler with the host's guider at guidance 1."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    sampler = InversionSampler(levels)
    callback = latent_preview.prepare_callback(model, levels.steps)
    torch.manual_seed(0)  # as the host's KSampler does for nodes that draw
    guider.sample(
        torch.zeros_like(samples), samples, sampler, levels.sigmas.to(torch.float32),
        callback=callback, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
    )
    return sampler


def to_host(model: ModelPatcher, latent: Tensor) -> Tensor:
    """A VP latent in the units of a LATENT (z / scale_factor)."""
    return model.get_model_object("latent_format").process_out(latent)
