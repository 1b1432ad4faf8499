"""The reference numbers, and the small UNet they were recorded on as a MODEL of the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.small_models import UNET_CONFIG, patcher

DATA = Path(__file__).parent / "data"


def tensors(name: str) -> dict[str, Tensor]:
    """All recorded tensors of a case."""
    return load_file(DATA / f"{name}.safetensors")


def facts(name: str) -> Any:
    """The recorded settings of a case."""
    return json.loads((DATA / f"{name}.json").read_text())


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted| in L2."""
    return float((found - wanted).norm() / wanted.norm())


def load_unet(*_: Any, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The recorded UNet in fp32."""
    config = comfy.supported_models.SD15(UNET_CONFIG)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    model.load_model_weights(load_file(DATA / "unet.safetensors"), "model.diffusion_model.")
    return patcher(model)


def reloadable_unet() -> comfy.model_patcher.ModelPatcher:
    """The same, built as a node finds it: inference tensors, and a way to load it again."""
    with torch.inference_mode():
        model = load_unet()
    model.cached_patcher_init = (load_unet, ())
    return model
