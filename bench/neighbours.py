"""Other nodes of the host on a MODEL or a CLIP, as people put them in front of ours.

Each is the host's own node, called as the host calls it, on a small random model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.t2i_adapter.adapter
import folder_paths
import torch
from comfy_extras import (
    nodes_apg,
    nodes_attention_multiply,
    nodes_controlnet,
    nodes_custom_sampler,
    nodes_eps,
    nodes_freelunch,
    nodes_fresca,
    nodes_hooks,
    nodes_hypertile,
    nodes_lora_debug,
    nodes_mahiro,
    nodes_model_advanced,
    nodes_model_downscale,
    nodes_model_merging,
    nodes_nag,
    nodes_pag,
    nodes_sag,
    nodes_tcfg,
    nodes_tomesd,
    nodes_torch_compile,
)
from safetensors.torch import save_file

import nodes

from . import small_models

DeepShrink = nodes_model_downscale.PatchModelAddDownscale
WIDTH = 64
SMALL = {
    **small_models.UNET_CONFIG, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
}
WIDE = {**SMALL, "model_channels": 320, "channel_mult": [1, 1], "transformer_depth": [0, 1],
        "transformer_depth_output": [0, 0, 1, 1]}  # a union ControlNet has this width alone
LORA, TEXTUAL_INVERSION = "neighbour.safetensors", "neighbour-word.safetensors"
LAYERS = ("input_blocks.3.1.transformer_blocks.0.attn2.to_v",
          "middle_block.1.transformer_blocks.0.attn1.to_q",
          "output_blocks.1.1.transformer_blocks.0.attn2.to_k")
Equip = Callable[[Any, Any], Any]


def first(found: Any) -> Any:
    """The first output of a node of either kind."""
    return (found.result if hasattr(found, "result") else found)[0]


LEARNT_WITH: dict[str, Equip] = {
    "FreeU": lambda m, other: first(nodes_freelunch.FreeU.execute(m, 1.1, 1.2, 0.9, 0.2)),
    "FreeU_V2": lambda m, other: first(nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.9, 0.2)),
    "HyperTile": lambda m, other: first(nodes_hypertile.HyperTile.execute(m, 32, 2, 1, False)),
    "TomePatchModel": lambda m, other: first(nodes_tomesd.TomePatchModel.execute(m, 0.3)),
    "PatchModelAddDownscale": lambda m, other: first(DeepShrink.execute(
        m, 2, 2.0, 0.0, 0.9, True, "bicubic", "bicubic")),
    "UNetSelfAttentionMultiply": lambda m, other: first(
        nodes_attention_multiply.UNetSelfAttentionMultiply.execute(m, 1.1, 1.0, 1.2, 1.0)),
    "UNetCrossAttentionMultiply": lambda m, other: first(
        nodes_attention_multiply.UNetCrossAttentionMultiply.execute(m, 1.1, 1.0, 1.2, 1.0)),
    "LoraLoaderModelOnly": lambda m, other: first(
        nodes.LoraLoaderModelOnly().load_lora_model_only(m, LORA, 1.0)),
    "LoraLoaderBypassModelOnly": lambda m, other: first(
        nodes_lora_debug.LoraLoaderBypassModelOnly().load_lora_model_only(m, LORA, 1.0)),
    "ModelSamplingDiscrete, zsnr": lambda m, other: first(
        nodes_model_advanced.ModelSamplingDiscrete().patch(m, "eps", True)),
}
MERGED: dict[str, Equip] = {
    "ModelMergeSimple": lambda m, other: first(
        nodes_model_merging.ModelMergeSimple().merge(m, other, 0.7)),
    "ModelMergeBlocks": lambda m, other: first(nodes_model_merging.ModelMergeBlocks().merge(
        m, other, input=0.9, middle=0.5, out=0.8)),
    "ModelMergeAdd": lambda m, other: first(nodes_model_merging.ModelAdd().merge(
        m, first(nodes_model_merging.ModelSubtract().merge(m, other, 0.2)))),
}
COMPILED: dict[str, Equip] = {
    "TorchCompileModel": lambda m, other: first(
        nodes_torch_compile.TorchCompileModel.execute(m, "inductor")),
}
CHANGE_GUIDANCE: dict[str, Equip] = {
    "RescaleCFG": lambda m, other: first(nodes_model_advanced.RescaleCFG().patch(m, 0.7)),
    "PerturbedAttentionGuidance": lambda m, other: first(
        nodes_pag.PerturbedAttentionGuidance.execute(m, 3.0)),
    "SelfAttentionGuidance": lambda m, other: first(
        nodes_sag.SelfAttentionGuidance.execute(m, 0.5, 2.0)),
    "NAGuidance": lambda m, other: first(nodes_nag.NAGuidance.execute(m, 5.0, 0.5, 1.5)),
    "FreSca": lambda m, other: first(nodes_fresca.FreSca.execute(m, 0.8, 1.5, 4)),
    "TCFG": lambda m, other: first(nodes_tcfg.TCFG.execute(m)),
    "Mahiro": lambda m, other: first(nodes_mahiro.Mahiro.execute(m)),
    "APG": lambda m, other: first(nodes_apg.APG.execute(m, 0.5, 5.0, 0.0)),
    "Epsilon Scaling": lambda m, other: first(nodes_eps.EpsilonScaling.execute(m, 1.05)),
}
if hasattr(nodes_custom_sampler, "CFGOverride"):  # older hosts have no such node
    CHANGE_GUIDANCE["CFG Override"] = lambda m, other: first(
        nodes_custom_sampler.CFGOverride.execute(m, 1.0, 0.6, 1.0))


def sampled_as(kind: str) -> Equip:
    """ModelSamplingDiscrete of one kind."""
    return lambda m, other: first(
        nodes_model_advanced.ModelSamplingDiscrete().patch(m, kind, False))


REFUSED = {f"ModelSamplingDiscrete, {kind}": sampled_as(kind)
           for kind in ("lcm", "x0", "img_to_img")}
ON_CLIP: dict[str, Equip] = {
    "CLIPSetLastLayer": lambda c, other: first(nodes.CLIPSetLastLayer().set_last_layer(c, -2)),
    "CLIPMergeSimple": lambda c, other: first(nodes_model_merging.CLIPMergeSimple().merge(
        c, other, 0.7)),
    "CreateHookLora, Set CLIP Hooks": lambda c, other: first(nodes_hooks.SetClipHooks().apply_hooks(
        c, False, True, first(nodes_hooks.CreateHookLora().create_hook(LORA, 1.0, 1.0)))),
}


def t2i_adapter() -> Any:
    """A T2I-Adapter for the small UNet."""
    made = comfy.t2i_adapter.adapter.Adapter(
        channels=[32, 64, 64, 64], nums_rb=2, cin=192, ksize=1, sk=True, use_conv=False, xl=False)
    made.load_state_dict({k: v.float() for k, v in small_models.randomized(made).items()})
    return comfy.controlnet.T2IAdapter(
        made, made.input_channels, 8, "nearest-exact", torch.device("cpu"))


def union_control_net() -> Any:
    """A union ControlNet, set to one of its kinds; all of them are as wide as `WIDE`."""
    config = {k: v for k, v in WIDE.items() if k != "out_channels"}
    made = comfy.cldm.cldm.ControlNet(
        **config, num_heads=8, hint_channels=3, dtype=torch.float32,
        union_controlnet_num_control_type=6)
    made.load_state_dict({k: v.float() for k, v in small_models.randomized(made).items()})
    held = comfy.controlnet.ControlNet(made, load_device=torch.device("cpu"))
    return first(nodes_controlnet.SetUnionControlNetType.execute(held, "depth"))


def unet_model(config: dict[str, Any], loud: float = 1.0) -> Any:
    """A MODEL of SD1.x's kind, weights at random; `loud` makes it another."""
    made = comfy.supported_models.SD15(dict(config))
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({})
    unet = model.diffusion_model
    unet.load_state_dict(
        {k: loud * v.float() for k, v in small_models.randomized(unet).items()})
    return small_models.patcher(model)


def clip(seed: int = 23) -> Any:
    """The host's CLIP of SD1.x at a small width, weights at random."""
    config = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 3,
              "num_attention_heads": 4, "hidden_act": "quick_gelu", "eos_token_id": 49407,
              "max_position_embeddings": 77}
    made = comfy.sd.CLIP(
        _TextTarget, parameters=1, state_dict={}, model_options={"clip_l_model_config": config},
        embedding_directory=folder_paths.get_folder_paths("embeddings"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.cond_stage_model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(drawn if "embedding" in name else drawn * weight.shape[-1] ** -0.5)
            elif weight.ndim:
                weight.copy_(0.02 * drawn + (1.0 if name.endswith("weight") else 0.0))
    return made


class _TextTarget:
    clip = comfy.sd1_clip.SD1ClipModel
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    params: dict[str, Any] = {}


def write_files(folder: Path) -> None:
    """A LoRA of rank 2 and a textual inversion of two tokens."""
    generator = torch.Generator().manual_seed(6)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    lora = {}
    for layer in LAYERS:
        lora[f"diffusion_model.{layer}.lora_up.weight"] = 0.3 * drawn(WIDTH, 2)
        lora[f"diffusion_model.{layer}.lora_down.weight"] = 0.3 * drawn(2, WIDTH)
    save_file(lora, folder / LORA)
    save_file({"emb_params": drawn(2, WIDTH)}, folder / TEXTUAL_INVERSION)
