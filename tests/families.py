"""Small random models of every family the pack accepts, as MODELs of the host."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.supported_models
import torch

from tests.golden import UNET_CONFIG, patcher

SDXL_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 2], "transformer_depth": [0, 2, 3],
    "transformer_depth_output": [0, 0, 2, 2, 3, 3], "transformer_depth_middle": 3,
    "use_spatial_transformer": True, "legacy": False, "context_dim": 64, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_linear_in_transformer": True, "num_head_channels": 16,
}
SD2_CONFIG = {**UNET_CONFIG, "use_linear_in_transformer": True, "num_head_channels": 16}
POOLED = {"sd15": 0, "sd2": 0, "sdxl": 1280, "inpainting": 0, "ip2p": 0}
SEES_IMAGES = {"inpainting": 9, "ip2p": 8}


def load(family: str, dtype: torch.dtype = torch.float32, **_: Any) -> Any:
    """A random model of a family; the same weights every time."""
    config: Any
    if family == "sdxl":
        config = comfy.supported_models.SDXL(dict(SDXL_CONFIG))
    elif family == "sd2":
        config = comfy.supported_models.SD20(dict(SD2_CONFIG))
        config.unet_config["num_head_channels"] = 16
        config.model_type = lambda *_: comfy.model_base.ModelType.V_PREDICTION
    elif family in SEES_IMAGES:
        known = comfy.supported_models
        made = known.SD15 if family == "inpainting" else known.SD15_instructpix2pix
        config = made({**UNET_CONFIG, "in_channels": SEES_IMAGES[family]})
    else:
        config = comfy.supported_models.SD15(dict(UNET_CONFIG))
    config.set_inference_dtype(dtype, torch.float32 if dtype.itemsize == 1 else None)
    model = config.get_model({})
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            flat = weight.ndim == 1
            scale = 0.02 if flat else 0.7 * weight[0].numel() ** -0.5
            ones = flat and name.endswith("weight")
            weight.copy_(drawn * scale + (1.0 if ones else 0.0))
    found = patcher(model)
    found.cached_patcher_init = (load, (family, dtype))
    return found


def prompts(family: str, count: int) -> list[Any]:
    """Random conditioning as the family's text encoders make it."""
    generator = torch.Generator().manual_seed(13)
    made = []
    for _ in range(count):
        extra: dict[str, Any] = {}
        tensor = torch.randn(1, 77, 64, generator=generator)
        if POOLED[family]:
            extra["pooled_output"] = torch.randn(1, POOLED[family], generator=generator)
            extra["width"], extra["height"] = 1024, 1024
        made.append([(tensor, extra)])
    return made
