"""Image tokens for the mapping networks, and OpenAI's vision towers, of which the host lacks some.

The released code looks at pictures through CLIP ViT-B/16, which the host's own loader refuses.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_vision
import folder_paths
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..prompts.quoting import quoted
from .inputs import pictures_of

FOLDER = "clip_vision"
EMBEDDINGS = "vision_model.embeddings."
CLASS, PATCH, POSITION = (
    EMBEDDINGS + name
    for name in ("class_embedding", "patch_embedding.weight", "position_embedding.weight"))
FIRST_FEED_FORWARD = "vision_model.encoder.layers.0.mlp.fc1.weight"
PROJECTION = "visual_projection.weight"
HEAD_WIDTH = 64
ORIGINAL_PREFIX = "visual."


def image_tokens(clip_vision: Any, image: Tensor) -> Tensor:
    """All tokens of the vision tower [1, n, d] for one image, after the tower's last norm.

    The host leaves that norm out of CLIP's tokens, but not out of SigLIP's and DINOv2's.
    """
    if len(pictures_of(image)) > 1:
        raise ValueError(f"image holds {len(image)} pictures, but one is learnt; pick one of them")
    hidden = clip_vision.encode_image(image, crop=False)["last_hidden_state"]
    tower: Any = getattr(clip_vision.model, "vision_model", None)
    if tower is None or tower.output_layernorm:
        return hidden.float()
    norm = tower.post_layernorm
    return norm(hidden.to(next(norm.parameters()).device)).float().cpu()


def vision_files() -> list[str]:
    """All safetensors files in the host's clip_vision folders."""
    return [name for name in folder_paths.get_filename_list(FOLDER)
            if name.endswith(".safetensors")]


def load_vision(file: str) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP vision tower of any size in OpenAI's or Hugging Face's layout, in fp32.

    Raises ValueError for a file that is cut short or holds something else.
    """
    state = read_vision(file)
    tower = _tower(vision_config(state))
    tower.model.float()
    missing, _ = tower.load_sd({name: tensor.float() for name, tensor in state.items()})
    if missing:
        raise ValueError(f"'{file}' has no '{missing[0]}', so it is no whole CLIP vision tower; "
                         "download it again")
    return tower


def _tower(config: dict[str, Any]) -> comfy.clip_vision.ClipVisionModel:
    """The host's tower of a config, from a file: before 0.24 it takes nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return comfy.clip_vision.ClipVisionModel(str(path))


def read_vision(file: str) -> dict[str, Tensor]:
    """The tower's tensors, by the names the host gives them."""
    path = folder_paths.get_full_path(FOLDER, file) if file in vision_files() else None
    if path is None:
        raise ValueError(
            f"'{quoted(file)}' is not in the folder models/{FOLDER}; choose one from the list")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"'{file}' cannot be read as a safetensors file ({error}); download it "
                         "again") from error
    if f"{ORIGINAL_PREFIX}conv1.weight" in tensors:
        tensors = comfy.clip_vision.convert_to_transformers(tensors, ORIGINAL_PREFIX)
    state = {name: tensor for name, tensor in tensors.items()
             if name.startswith("vision_model.") or name == PROJECTION}
    for name in (CLASS, PATCH, POSITION, FIRST_FEED_FORWARD, PROJECTION):
        if name not in state:
            raise ValueError(
                f"'{file}' has no '{name}', so it is no CLIP vision tower; choose, for example, "
                "model.safetensors of openai/clip-vit-base-patch16")
    return state


def vision_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """The host's description of a tower, read from the shapes of its tensors."""
    patch = state[PATCH].shape[-1]
    return {
        "model_type": "clip_vision_model", "num_channels": 3, "patch_size": patch,
        "image_size": patch * math.isqrt(state[POSITION].shape[0] - 1),
        "projection_dim": state[PROJECTION].shape[0],
        **tower_config(state, "vision_model", state[CLASS].numel()),
    }


def tower_config(state: Mapping[str, Tensor], name: str, width: int) -> dict[str, Any]:
    """What CLIP's text and vision towers of some width have alike, read from their tensors."""
    layers = {key.split(".")[3] for key in state if key.startswith(f"{name}.encoder.layers.")}
    inner = state[f"{name}.encoder.layers.0.mlp.fc1.weight"].shape[0]
    return {"hidden_size": width, "num_hidden_layers": len(layers), "intermediate_size": inner,
            "num_attention_heads": max(1, width // HEAD_WIDTH), "hidden_act": "quick_gelu"}
