"""Vision towers: tokens by a textbook transformer, shapes read from the file, foreign files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.clip_vision
import folder_paths
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from stylediffusion_pack.stylediffusion.host import vision

WIDTH, PATCH, SIDE, LAYERS, PROJECTED = 128, 16, 48, 2, 40


def tower_file(seed: int = 3) -> dict[str, torch.Tensor]:
    """A small random tower by the names of openai/clip-vit-base-patch16."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, around: float = 0.0) -> torch.Tensor:
        return around + 0.2 * torch.randn(*shape, generator=generator)

    v = "vision_model."
    made = {
        v + "embeddings.class_embedding": drawn(WIDTH),
        v + "embeddings.patch_embedding.weight": drawn(WIDTH, 3, PATCH, PATCH),
        v + "embeddings.position_embedding.weight": drawn((SIDE // PATCH) ** 2 + 1, WIDTH),
        "visual_projection.weight": drawn(PROJECTED, WIDTH),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        made |= {f"{v}{norm}.weight": drawn(WIDTH, around=1.0), f"{v}{norm}.bias": drawn(WIDTH)}
    for i in range(LAYERS):
        layer = f"{v}encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            made |= {f"{layer}{norm}.weight": drawn(WIDTH, around=1.0),
                     f"{layer}{norm}.bias": drawn(WIDTH)}
        sizes = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH),
                 "self_attn.v_proj": (WIDTH, WIDTH), "self_attn.out_proj": (WIDTH, WIDTH),
                 "mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for name, (out, into) in sizes.items():
            made |= {f"{layer}{name}.weight": 0.3 * drawn(out, into),
                     f"{layer}{name}.bias": drawn(out)}
    return made


def textbook_tokens(w: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """CLIP's vision transformer written out, with the last norm on every token."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    v = "vision_model."
    pixels = (image.movedim(-1, 1) - mean) / deviation
    patches = F.conv2d(pixels, w[v + "embeddings.patch_embedding.weight"], stride=PATCH)
    x = torch.cat([w[v + "embeddings.class_embedding"].view(1, 1, -1),
                   patches.flatten(2).transpose(1, 2)], 1)
    x = x + w[v + "embeddings.position_embedding.weight"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), w[name + ".weight"], w[name + ".bias"])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    x = norm(x, v + "pre_layrnorm")
    for i in range(LAYERS):
        layer = f"{v}encoder.layers.{i}."
        y = norm(x, layer + "layer_norm1")
        q, k, value = (linear(y, f"{layer}self_attn.{n}_proj").unflatten(-1, (WIDTH // 64, 64))
                       .transpose(1, 2) for n in "qkv")
        attended = torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ value
        x = x + linear(attended.transpose(1, 2).flatten(2), f"{layer}self_attn.out_proj")
        y = linear(norm(x, layer + "layer_norm2"), layer + "mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), layer + "mlp.fc2")
    return norm(x, v + "post_layernorm")


@pytest.fixture()
def folder(tmp_path: Path) -> Iterator[Path]:
    names, extensions = folder_paths.folder_names_and_paths["clip_vision"]
    folder_paths.folder_names_and_paths["clip_vision"] = ([str(tmp_path)], extensions)
    yield tmp_path
    folder_paths.folder_names_and_paths["clip_vision"] = (names, extensions)


def picture() -> torch.Tensor:
    pixels = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(5))
    return (pixels * 255).round() / 255


def original_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tower by the names of OpenAI's own files."""
    v = "vision_model."
    made = {
        "visual.class_embedding": tensors[v + "embeddings.class_embedding"],
        "visual.conv1.weight": tensors[v + "embeddings.patch_embedding.weight"],
        "visual.positional_embedding": tensors[v + "embeddings.position_embedding.weight"],
        "visual.proj": tensors["visual_projection.weight"].T.contiguous(),
    }
    for old, new in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        made |= {f"visual.{old}.{p}": tensors[f"{v}{new}.{p}"] for p in ("weight", "bias")}
    for i in range(LAYERS):
        old, new = f"visual.transformer.resblocks.{i}.", f"{v}encoder.layers.{i}."
        pairs = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj":
                 "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
        for a, b in pairs.items():
            made |= {f"{old}{a}.{p}": tensors[f"{new}{b}.{p}"] for p in ("weight", "bias")}
        for p in ("weight", "bias"):
            made[f"{old}attn.in_proj_{p}"] = torch.cat(
                [tensors[f"{new}self_attn.{n}_proj.{p}"] for n in "qkv"])
    return made


@pytest.mark.parametrize("layout", [dict, original_layout])
def test_tokens_are_those_of_a_transformer_written_out_after_its_last_norm(
    folder: Path, layout: Any
) -> None:
    tensors = tower_file()
    save_file(layout({**tensors, "logit_scale": torch.ones(1)} if layout is dict else tensors),
              folder / "vit.safetensors")
    assert vision.vision_files() == ["vit.safetensors"]
    found = vision.image_tokens(vision.load_vision("vit.safetensors"), picture())
    assert found.shape == (1, 10, WIDTH)
    assert torch.allclose(found, textbook_tokens(tensors, picture()), atol=2e-4)


def test_the_paper_s_tower_is_recognised_by_its_shapes() -> None:
    layers = {f"vision_model.encoder.layers.{i}.mlp.fc1.weight": torch.empty(3072, 768)
              for i in range(12)}
    config = vision.vision_config({
        "vision_model.embeddings.class_embedding": torch.empty(768),
        "vision_model.embeddings.patch_embedding.weight": torch.empty(768, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": torch.empty(197, 768),
        "visual_projection.weight": torch.empty(512, 768), **layers})
    found = (config["image_size"], config["patch_size"], config["num_hidden_layers"])
    assert found == (224, 16, 12)
    assert (config["num_attention_heads"], config["projection_dim"]) == (12, 512)


def test_files_that_are_no_tower_are_refused_by_name(folder: Path) -> None:
    save_file({"weight": torch.ones(2)}, folder / "lora.safetensors")
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    tensors = tower_file()
    del tensors["vision_model.encoder.layers.1.mlp.fc2.bias"]
    save_file(tensors, folder / "partial.safetensors")
    for file, said in (("lora", "has no 'vision_model.embeddings.class_embedding'"),
                       ("cut", "cannot be read as a safetensors file"),
                       ("partial", "has no 'vision_model.encoder.layers.1.mlp.fc2.bias'")):
        with pytest.raises(ValueError, match=f"'{file}.safetensors' {said}"):
            vision.load_vision(f"{file}.safetensors")


SMALL = {"num_channels": 3, "hidden_size": WIDTH, "image_size": SIDE, "num_attention_heads": 2,
         "num_hidden_layers": LAYERS, "patch_size": PATCH}
SIGLIP = {**SMALL, "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh",
          "intermediate_size": 2 * WIDTH}
DINO = {**SMALL, "model_type": "dinov2", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}


@pytest.mark.parametrize(("config", "tokens", "last_norm"), [
    (SIGLIP, 9, "vision_model.post_layernorm"), (DINO, 10, "layernorm"),
], ids=["siglip", "dinov2"])
def test_tokens_of_the_hosts_other_towers_went_through_their_last_norm_once(
    config: dict[str, Any], tokens: int, last_norm: str, tmp_path: Path
) -> None:
    described, generator = tmp_path / "config.json", torch.Generator().manual_seed(4)
    described.write_text(json.dumps(config))  # hosts before 0.24 take nothing but a file
    tower = comfy.clip_vision.ClipVisionModel(str(described))
    tower.model.float()
    for name, weight in tower.model.named_parameters():
        weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
        weight.data += 2.0 if name == f"{last_norm}.weight" else 0.0
    weights = dict(tower.model.named_parameters())
    seen: list[torch.Tensor] = []
    norm = tower.model.get_submodule(last_norm)
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = vision.image_tokens(tower, picture())
    hook.remove()
    wanted = F.layer_norm(seen[0], (WIDTH,), weights[f"{last_norm}.weight"],
                          weights[f"{last_norm}.bias"])
    assert found.shape == (1, tokens, WIDTH) and len(seen) == 1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_several_pictures_are_an_error() -> None:
    with pytest.raises(ValueError, match="image holds 3 pictures"):
        vision.image_tokens(None, torch.zeros(3, 8, 8, 3))


@pytest.mark.parametrize("shape", [(1,), (8, 8, 3), (1, 8, 8, 2), (1, 0, 8, 3), (0, 8, 8, 3)])
def test_what_is_no_picture_in_colour_is_an_error_that_says_its_shape(
    shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the image has shape {shape}, but pictures")):
        vision.image_tokens(None, torch.zeros(shape))
