"""Checkpoint files of full shape, random weights, loaded by the host's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import comfy.model_base
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch
from safetensors.torch import save_file
from torch import Tensor

from .small_models import randomized, vae_tensors

SD15, SDXL = comfy.supported_models.SD15, comfy.supported_models.SDXL
# What the host computes in; None is its own choice, on a CPU fp32: too much there for SDXL.
SHAPES: dict[str, tuple[Any, dict[str, Any], torch.dtype | None]] = {
    "SD1.5": (SD15, subjects.SD15_CONFIG, None),
    "SDXL": (SDXL, subjects.SDXL_CONFIG, torch.bfloat16)}


def loaded(folder: Path, shape: str) -> tuple[Any, Any]:
    """(MODEL, CLIP) of a checkpoint written to a folder, fp16 in the file; a TAESD stands for the
    VAE."""
    path = folder / f"{shape}.safetensors"
    kind, unet, dtype = SHAPES[shape]
    save_file(checkpoint(kind, unet), path)
    with torch.inference_mode():
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            str(path), model_options={"dtype": dtype} if dtype else {})
    return model, clip


def checkpoint(kind: Any, unet: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of such a file, under the names that released checkpoints have."""
    with torch.device("meta"):
        config = kind(dict(unet))
        model = comfy.model_base.BaseModel(config, device=torch.device("meta"))
        clip_l = comfy.sd1_clip.SDClipModel(dtype=torch.float32)
        clip_g = comfy.sdxl_clip.SDXLClipG(dtype=torch.float32) if kind is SDXL else None
    state = {f"model.diffusion_model.{k}": v for k, v in randomized(model.diffusion_model).items()}
    state |= {f"first_stage_model.{k}": v.contiguous() for k, v in vae_tensors().items()}
    if clip_g is None:
        return state | {f"cond_stage_model.transformer.{k}": v
                        for k, v in randomized(clip_l.transformer).items()}
    texts = {f"clip_{letter}.transformer.{k}": v for letter, encoder in zip(
        "lg", (clip_l, clip_g), strict=True) for k, v in randomized(encoder.transformer).items()}
    return state | {k: v.contiguous() for k, v in
                    config.process_clip_state_dict_for_saving(texts).items()}
