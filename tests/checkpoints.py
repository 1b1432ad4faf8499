"""Files of random weights with the architecture of what the example graphs download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.model_base
import comfy.ops
import comfy.sd1_clip
import comfy.supported_models
import torch
from safetensors.torch import save_file

from bench.small_models import randomized, vae_tensors

# As in Stable Diffusion 1.5 but for depth: one block a level, two levels of one width.
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "use_spatial_transformer": True, "legacy": False, "context_dim": 768, "num_heads": 8,
    "use_temporal_attention": False, "use_linear_in_transformer": False, "adm_in_channels": None,
}
PATCHED = "middle_block.1.transformer_blocks.0.attn2.to_v"


def checkpoint(path: Path) -> None:
    """A checkpoint that the host takes for Stable Diffusion 1.5; its VAE is the demo model's."""
    with torch.device("meta"):
        config = comfy.supported_models.SD15(dict(UNET))
        unet = comfy.model_base.BaseModel(config, device=torch.device("meta"))
        text = comfy.sd1_clip.SDClipModel(dtype=torch.float32).transformer
    state = {f"model.diffusion_model.{k}": v for k, v in randomized(unet.diffusion_model).items()}
    state |= {f"cond_stage_model.transformer.{k}": v for k, v in randomized(text).items()}
    state |= {f"first_stage_model.{k}": v.contiguous() for k, v in vae_tensors().items()}
    save_file(state, path)


def lora(path: Path) -> None:
    """A LoRA of rank 2 on one layer."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Any:
        return 0.05 * torch.randn(*shape, generator=generator)

    width = UNET["model_channels"] * UNET["channel_mult"][-1]  # type: ignore[index, operator]
    save_file({
        f"diffusion_model.{PATCHED}.lora_up.weight": drawn(width, 2),
        f"diffusion_model.{PATCHED}.lora_down.weight": drawn(2, 768),
    }, path)


def controlnet(path: Path) -> None:
    """A ControlNet for `checkpoint`; none of its last layers is zero, as before training."""
    config = {name: value for name, value in UNET.items() if name != "out_channels"}
    with torch.device("meta"):
        made = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, device="meta")
    save_file(randomized(made), path)
