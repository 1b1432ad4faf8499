"""Build the host's MODEL, CLIP, VAE and CLIP_VISION from the shipped file of the demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from . import model as parts

WEIGHTS = Path(__file__).with_name("weights.safetensors")
UNET, TEXT, VAE, VISION = "model.diffusion_model.", "text.", "first_stage_model.", "vision."
OWN = ("vocabulary.ids", "vocabulary.rows", "latent_rgb.factors", "latent_rgb.bias")


class _TextTarget:
    """What the host's CLIP class wants to know about a text encoder."""

    clip = comfy.sd1_clip.SD1ClipModel
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    params: dict[str, Any] = {}


def read_weights(path: Path = WEIGHTS) -> dict[str, Tensor]:
    """All tensors of a demo model file; raises ValueError where it is missing, cut or foreign."""
    again = "install the pack again to get the file that came with it"
    if not path.is_file():
        raise ValueError(f"the demo model's weights '{path.name}' are missing; {again}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"'{path.name}' is not a whole safetensors file ({error}); {again}"
        ) from error
    missing = [k for k in OWN if k not in tensors]
    missing += [p for p in (UNET, TEXT, VAE, VISION) if not any(k.startswith(p) for k in tensors)]
    if missing:
        raise ValueError(
            f"'{path.name}' is not the demo model: it has no '{missing[0]}'; {again}"
        )
    return tensors


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(module: torch.nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict that must fit to the letter."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the weights do not fit the demo model's {what}; install the pack again"
        ) from error


def load_model(path: Path = WEIGHTS, disable_dynamic: bool = False) -> Any:
    """The MODEL; the host calls this again where it needs a fresh copy of the weights."""
    tensors = read_weights(path)
    management = comfy.model_management
    device = management.get_torch_device()
    dtypes = [torch.float16, torch.bfloat16, torch.float32]
    dtype = management.unet_dtype(device, supported_dtypes=dtypes)
    config = parts.DemoModelConfig(parts.UNET_CONFIG)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, dtypes))
    config.latent_format.latent_rgb_factors = tensors["latent_rgb.factors"].tolist()
    config.latent_format.latent_rgb_factors_bias = tensors["latent_rgb.bias"].tolist()
    model = config.get_model({})
    _fill(model.diffusion_model, _part(tensors, UNET), "UNet")
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else (
        comfy.model_patcher.CoreModelPatcher)
    patcher = kind(model, load_device=device, offload_device=management.unet_offload_device())
    patcher.cached_patcher_init = (load_model, (path,))
    return patcher


def load_clip(path: Path = WEIGHTS, disable_dynamic: bool = False) -> Any:
    """The CLIP; words the model never learnt all share the mean of those it did."""
    tensors = read_weights(path)
    rows = tensors["vocabulary.rows"].float()
    table = rows.mean(0).repeat(parts.VOCABULARY_SIZE, 1)
    table[tensors["vocabulary.ids"].long()] = rows
    state = {f"clip_l.transformer.{k}": v.float() for k, v in _part(tensors, TEXT).items()}
    state["clip_l.transformer.text_model.embeddings.token_embedding.weight"] = table
    state["clip_l.transformer.text_projection.weight"] = torch.eye(rows.shape[1])
    asked = {"disable_dynamic": True} if disable_dynamic else {}  # not every host knows it
    clip = comfy.sd.CLIP(
        _TextTarget, parameters=table.numel(), state_dict=state,
        model_options={"clip_l_model_config": parts.TEXT_CONFIG}, **asked,
    )
    clip.patcher.cached_patcher_init = (_clip_patcher, (path,))
    return clip


def _clip_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    return load_clip(path, disable_dynamic).patcher


def load_vae(path: Path = WEIGHTS) -> Any:
    """The VAE, in TAESD layout."""
    return comfy.sd.VAE(sd=_part(read_weights(path), VAE))


def load_vision(path: Path = WEIGHTS) -> Any:
    """The CLIP_VISION whose tokens the mapping networks read."""
    tower = comfy.clip_vision.ClipVisionModel(str(parts.VISION_FILE))
    _fill(tower.model, _part(read_weights(path), VISION), "vision tower")
    return tower
