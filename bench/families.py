"""Every family of UNet the pack works with, small: the host's own classes, weights at random.

Depth, blocks, heads and text encoders are arranged as in the family's checkpoints; only widths are
reduced. A family's text encoders are the host's too, so prompts have both of SDXL's widths, the
pooled prompt and the sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.text_encoders.sd2_clip
import torch

known = comfy.supported_models
EPS, V = comfy.model_base.ModelType.EPS, comfy.model_base.ModelType.V_PREDICTION
SIZES_AND_CROPS, SIZES_AND_SCORE = 6 * 256, 5 * 256
WIDTHS = {"clip_l": 32, "clip_g": 64, "clip_h": 64}
ACTIVATION = {"clip_l": "quick_gelu", "clip_g": "gelu", "clip_h": "gelu"}
SD1 = {
    **subjects.SD15_CONFIG, "model_channels": 32, "context_dim": WIDTHS["clip_l"],
}
SD2 = {**SD1, "context_dim": WIDTHS["clip_h"], "use_linear_in_transformer": True}
XL = {
    **subjects.SDXL_CONFIG, "model_channels": 32, "num_head_channels": 16,
    "context_dim": WIDTHS["clip_l"] + WIDTHS["clip_g"],
    "adm_in_channels": WIDTHS["clip_g"] + SIZES_AND_CROPS,
}
REFINER = {
    **XL, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    "transformer_depth_middle": 4, "context_dim": WIDTHS["clip_g"],
    "adm_in_channels": WIDTHS["clip_g"] + SIZES_AND_SCORE,
}
SSD1B = {
    **XL, "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4], "transformer_depth_middle": -1,
}
VEGA = {
    **XL, "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "transformer_depth_middle": -1,
}
KOALA = {
    **XL, "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5], "transformer_depth_middle": -2,
}


def encoder_config(name: str) -> dict[str, Any]:
    """A CLIP text encoder of the host at a small width."""
    width = WIDTHS[name]
    return {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 3,
            "num_attention_heads": 4, "hidden_act": ACTIVATION[name], "eos_token_id": 49407,
            "max_position_embeddings": 77}


@dataclass(frozen=True)
class Encoder:
    """What the host's CLIP class wants to know about a text encoder."""

    clip: Any
    tokenizer: Any
    params: dict[str, Any] = field(default_factory=dict)


ENCODERS = {
    "sd1": Encoder(comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
    "sd2": Encoder(comfy.text_encoders.sd2_clip.SD2ClipModel,
                   comfy.text_encoders.sd2_clip.SD2Tokenizer),
    "sdxl": Encoder(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
    "refiner": Encoder(comfy.sdxl_clip.SDXLRefinerClipModel, comfy.sdxl_clip.SDXLTokenizer),
}


@dataclass(frozen=True)
class Family:
    """A family, and how its pictures are usually made: steps and guidance."""

    name: str
    config: Any
    unet: dict[str, Any]
    encoder: str
    prediction: Any = EPS
    zero_terminal_snr: bool = False
    steps: int = 4
    guidance: float = 4.0

    def of_channels(self, name: str, channels: int, **more: Any) -> Family:
        """The same family with image conditioning beside the latent."""
        unet = {**self.unet, "in_channels": channels}
        return Family(name, more.get("config", self.config), unet, self.encoder)


_SD1 = Family("SD1.x", known.SD15, SD1, "sd1")
_SD2 = Family("SD2.x base", known.SD20, SD2, "sd2")
_XL = Family("SDXL base", known.SDXL, XL, "sdxl")
FAMILIES = (
    _SD1,
    _SD1.of_channels("SD1.x inpainting", 9),
    _SD1.of_channels("SD1.x InstructPix2Pix", 8, config=known.SD15_instructpix2pix),
    Family("SD1.x LCM, 4 steps", known.SD15, SD1, "sd1", guidance=1.5),
    _SD2,
    Family("SD2.x 768 (v)", known.SD20, SD2, "sd2", V),
    _SD2.of_channels("SD2.x inpainting", 9),
    Family("SD2.1 unCLIP", known.SD21UnclipH, {
        **SD2, "num_classes": "sequential", "adm_in_channels": 2048}, "sd2", V),
    _XL,
    Family("SDXL refiner", known.SDXLRefiner, REFINER, "refiner"),
    _XL.of_channels("SDXL inpainting", 9),
    _XL.of_channels("SDXL InstructPix2Pix", 8, config=known.SDXL_instructpix2pix),
    Family("SDXL v-prediction", known.SDXL, XL, "sdxl", V),
    Family("SDXL v, zero terminal SNR", known.SDXL, XL, "sdxl", V, True),
    Family("SSD-1B", known.SSD1B, SSD1B, "sdxl"),
    Family("Segmind Vega", known.Segmind_Vega, VEGA, "sdxl"),
    Family("KOALA", known.KOALA_700M, KOALA, "sdxl"),
    Family("SDXL Turbo, Lightning, 4 steps", known.SDXL, XL, "sdxl", guidance=1.0),
)
REFUSED = {
    "Playground 2.5 (EDM)": comfy.model_base.ModelType.EDM,
    "v-prediction EDM (CosXL)": comfy.model_base.ModelType.V_PREDICTION_EDM,
    "flow matching": comfy.model_base.ModelType.FLOW,
}


def load_model(family: Family, dtype: torch.dtype) -> Any:
    """A MODEL of a family as its loader leaves it: inference tensors, and a way to load again."""
    management = comfy.model_management
    config = family.config(dict(family.unet))
    if "num_head_channels" in family.unet:
        config.unet_config["num_head_channels"] = family.unet["num_head_channels"]
    if family.encoder == "sd2":
        config.unet_config["num_head_channels"] = 16
    config.model_type = lambda *_: family.prediction
    if family.zero_terminal_snr:
        config.sampling_settings = {**config.sampling_settings, "zsnr": True}
    config.set_inference_dtype(dtype, None)
    model = config.get_model({})
    randomize(model.diffusion_model, torch.Generator().manual_seed(12))
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=management.get_torch_device(), offload_device=torch.device("cpu"))
    patcher.cached_patcher_init = (partial(_again, family, dtype), ())
    return patcher


def _again(family: Family, dtype: torch.dtype, **_: Any) -> Any:
    return load_model(family, dtype)


def load_clip(family: Family) -> Any:
    """The family's CLIP."""
    encoder = ENCODERS[family.encoder]
    options = {f"{name}_model_config": encoder_config(name) for name in WIDTHS}
    clip = comfy.sd.CLIP(encoder, parameters=1, model_options=options, state_dict={})
    randomize(clip.cond_stage_model, torch.Generator().manual_seed(13), 1.0)
    return clip


@torch.no_grad()
def randomize(module: torch.nn.Module, generator: torch.Generator, loud: float = 0.7) -> None:
    """Weights of the size that a trained network's have: no layer is zero."""
    for name, weight in module.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.copy_(0.02 * drawn + (1.0 if name.endswith("weight") else 0.0))
        elif weight.ndim > 1:
            weight.copy_(drawn * loud * weight[0].numel() ** -0.5)


def refused(kind: Any) -> Callable[[], Any]:
    """A maker of an SDXL model of another prediction."""
    return lambda: load_model(Family("", known.SDXL, XL, "sdxl", kind), torch.float32)
