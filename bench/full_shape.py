"""A checkpoint file of Stable Diffusion 1.5's full shape, loaded by the host's own node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import folder_paths
import torch
from safetensors.torch import save_file

import nodes
from tests.checkpoints import randomized, vae_tensors


def loaded(folder: Path) -> tuple[Any, Any]:
    """(MODEL, CLIP) of a checkpoint written to a folder, fp16 in the file; a TAESD stands for the
    VAE."""
    path = folder / "full_shape.safetensors"
    with torch.device("meta"):
        config = comfy.supported_models.SD15(dict(subjects.SD15_CONFIG))
        unet = comfy.model_base.BaseModel(config, device=torch.device("meta")).diffusion_model
        text = comfy.sd1_clip.SDClipModel(dtype=torch.float32).transformer
    state = {f"model.diffusion_model.{k}": v for k, v in randomized(unet).items()}
    state |= {f"cond_stage_model.transformer.{k}": v for k, v in randomized(text).items()}
    state |= {f"first_stage_model.{k}": v.contiguous() for k, v in vae_tensors().items()}
    save_file(state, path)
    del state
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    with torch.inference_mode():
        model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint(path.name)
    return model, clip
