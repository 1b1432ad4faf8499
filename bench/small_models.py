"""Models to try things on: a small architecture, random weights for any, the demo model's VAE."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from demo import loading

UNET_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False,
    "context_dim": 64, "adm_in_channels": None, "use_linear_in_transformer": False,
}


def randomized(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Small random weights of a module's shapes, in half precision."""
    generator, state = torch.Generator().manual_seed(4), {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1:
            drawn = 0.02 * drawn + (1.0 if name.endswith("weight") else 0.0)
        else:
            drawn *= tensor[0].numel() ** -0.5
        state[name] = drawn.half()
    return state


def vae_tensors() -> dict[str, torch.Tensor]:
    """The demo model's VAE, in TAESD's layout."""
    return {k.removeprefix(loading.VAE): v for k, v in loading.read_weights(loading.WEIGHTS).items()
            if k.startswith(loading.VAE)}


def patcher(model: Any) -> comfy.model_patcher.ModelPatcher:
    """A model that rests on the CPU and works where the host does: see dev.py's --cpu."""
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=torch.device("cpu"))
