"""The parts of the demo model, built from the host's own classes at a fraction of their size.

The structure is that of Stable Diffusion 1.x: a CLIP text encoder with 77 tokens, a UNet with
cross-attention in encoder and decoder, an 8x VAE in TAESD layout, epsilon prediction on the same
noise schedule. A small CLIP vision tower gives the mapping networks their image tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.clip_model
import comfy.ops
import comfy.sd1_clip
import comfy.supported_models
import comfy.taesd.taesd
import torch
from comfy.latent_formats import LatentFormat
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

LATENT_SCALE = 0.18215
VOCABULARY_SIZE = 49408

UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "context_dim": 128,
    "adm_in_channels": None,
    "use_linear_in_transformer": False,
}
UNET_HEADS = {"num_heads": 4, "num_head_channels": -1}

TEXT_CONFIG = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}

VISION_FILE = Path(__file__).with_name("vision.json")
VISION_CONFIG = json.loads(VISION_FILE.read_text(encoding="utf-8"))


class DemoLatentFormat(LatentFormat):
    """Latents of the demo VAE; preview colours are fitted by regression and set on loading."""

    scale_factor = LATENT_SCALE

    def __init__(self) -> None:
        self.latent_rgb_factors: list[list[float]] | None = None
        self.latent_rgb_factors_bias: list[float] | None = None


class DemoModelConfig(comfy.supported_models.SD15):
    """SD1.x in the small: the host builds, patches and samples it like any other SD1 model."""

    unet_extra_config = UNET_HEADS
    latent_format = DemoLatentFormat


def initialise(module: torch.nn.Module) -> torch.nn.Module:
    """Fill the host's uninitialised layers the way torch.nn does for its own."""
    for part in module.modules():
        if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)):
            torch.nn.init.kaiming_uniform_(part.weight, a=5**0.5)
            if part.bias is not None:
                torch.nn.init.zeros_(part.bias)
        elif isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            torch.nn.init.ones_(part.weight)
            torch.nn.init.zeros_(part.bias)
        elif isinstance(part, torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=0.02)
    return module


def _let_norms_copy(module: torch.nn.Module) -> None:
    """The host's CLIP layers add in place, so for autograd each norm must hear a copy."""
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(), *inputs[1:]))


def new_unet() -> UNetModel:
    """A UNet to train, fp32; its last convolution starts at zero."""
    unet = UNetModel(
        **UNET_CONFIG, **UNET_HEADS, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    initialise(unet)
    torch.nn.init.zeros_(unet.out[2].weight)
    return unet


def new_text_encoder(vocabulary: torch.Tensor) -> comfy.clip_model.CLIPTextModel:
    """A text encoder to train, fp32; its tokens are places in `vocabulary`, the sorted ids in use.

    Loading puts the rows back to their places in the whole table of the host's tokenizer.
    """
    config = dict(TEXT_CONFIG)
    operations = comfy.ops.disable_weight_init
    text = comfy.clip_model.CLIPTextModel(config, torch.float32, "cpu", operations)
    text.set_input_embeddings(operations.Embedding(len(vocabulary), TEXT_CONFIG["hidden_size"]))
    end = torch.tensor(TEXT_CONFIG["eos_token_id"])
    text.text_model.eos_token_id = int(torch.searchsorted(vocabulary, end))
    _let_norms_copy(text)
    return initialise(text)


def new_vae() -> comfy.taesd.taesd.TAESD:
    """A VAE to train, fp32. Its encoder is trained to unit-variance latents; `vae_scale` makes
    the host's z (VAE output times 0.18215) equal to them."""
    vae = comfy.taesd.taesd.TAESD(latent_channels=4)
    initialise(vae)
    vae.vae_scale.data.fill_(LATENT_SCALE)
    return vae


def new_vision_tower() -> comfy.clip_model.CLIPVisionModelProjection:
    """A CLIP vision tower to train, fp32: 65 tokens of width 96."""
    tower = comfy.clip_model.CLIPVisionModelProjection(
        dict(VISION_CONFIG), torch.float32, "cpu", comfy.ops.disable_weight_init
    )
    _let_norms_copy(tower)
    initialise(tower)
    torch.nn.init.normal_(tower.vision_model.embeddings.class_embedding, std=0.02)
    return tower


def tokenizer() -> comfy.sd1_clip.SD1Tokenizer:
    """The host's own SD1 tokenizer."""
    return comfy.sd1_clip.SD1Tokenizer()


def token_ids(tokens: comfy.sd1_clip.SD1Tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids [B, 77] of texts that fit one chunk."""
    rows = [[t for t, _ in tokens.tokenize_with_weights(text)["l"][0]] for text in texts]
    return torch.tensor(rows, dtype=torch.long)
