"""Metrics with their networks, from small random files where the host looks for the real ones."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from stylediffusion_pack.nodes.views import EditMetrics
from stylediffusion_pack.stylediffusion.host import vision
from stylediffusion_pack.stylediffusion.host.views import measuring
from stylediffusion_pack.stylediffusion.measures import table
from torch import Tensor

CLIP_FILE = "clip-vit-large-patch14.safetensors"
WIDTHS = {"text_model": 64, "vision_model": 128}
PROJECTED = 64
Drawn = Any


def drawn(generator: torch.Generator) -> Drawn:
    return lambda *shape: 0.1 * torch.randn(*shape, generator=generator)


def clip_state() -> dict[str, Tensor]:
    """A small CLIP under the names of openai/clip-vit-large-patch14."""
    random = drawn(torch.Generator().manual_seed(9))
    state = {
        "text_model.embeddings.token_embedding.weight": random(49408, 64),
        "text_model.embeddings.position_embedding.weight": random(77, 64),
        "text_model.final_layer_norm.weight": 1 + random(64),
        "text_model.final_layer_norm.bias": random(64),
        "vision_model.embeddings.class_embedding": random(128),
        "vision_model.embeddings.patch_embedding.weight": random(128, 3, 32, 32),
        "vision_model.embeddings.position_embedding.weight": random(50, 128),
        "vision_model.pre_layrnorm.weight": 1 + random(128),
        "vision_model.pre_layrnorm.bias": random(128),
        "vision_model.post_layernorm.weight": 1 + random(128),
        "vision_model.post_layernorm.bias": random(128),
        "visual_projection.weight": random(PROJECTED, 128),
        "text_projection.weight": random(PROJECTED, 64), "logit_scale": torch.tensor(4.6)}
    for tower, width in WIDTHS.items():
        for layer in range(2):
            name = f"{tower}.encoder.layers.{layer}."
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                state |= {f"{name}self_attn.{part}.weight": random(width, width),
                          f"{name}self_attn.{part}.bias": random(width)}
            state |= {f"{name}mlp.fc1.weight": random(4 * width, width),
                      f"{name}mlp.fc1.bias": random(4 * width),
                      f"{name}mlp.fc2.weight": random(width, 4 * width),
                      f"{name}mlp.fc2.bias": random(width)}
            for part in ("layer_norm1", "layer_norm2"):
                state |= {f"{name}{part}.weight": 1 + random(width),
                          f"{name}{part}.bias": random(width)}
    return state


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The two folders the networks are looked for in, empty."""
    found = {}
    for name in ("clip_vision", "lpips"):
        found[name] = tmp_path / name
        found[name].mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(found[name])], set()))
    return found


def pictures(seed: int, count: int = 1, side: int = 64) -> Tensor:
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(
        small, (side, side), mode="bilinear").movedim(1, -1)


def hosts_text(state: dict[str, Tensor], prompt: str) -> Tensor:
    """The host's own text encoder, which does not come from transformers."""
    config = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1,
              "num_hidden_layers": 2, "hidden_act": "quick_gelu", "eos_token_id": 49407,
              "max_position_embeddings": 77, "vocab_size": 49408, "layer_norm_eps": 1e-5}
    encoder = comfy.sd1_clip.SDClipModel(textmodel_json_config=config, dtype=torch.float32)
    own = {k: v for k, v in state.items() if k.startswith("text_")}
    encoder.transformer.load_state_dict(own, strict=False)
    tokens = [[token for token, _ in chunk]
              for chunk in comfy.sd1_clip.SDTokenizer().tokenize_with_weights(prompt)]
    return encoder(tokens)[1]


def test_clips_two_towers_are_the_hosts_own(folders: dict[str, Path]) -> None:
    state, prompts = clip_state(), ("a brown cat in the city", "an orange cat")
    save_file(state, folders["clip_vision"] / CLIP_FILE, metadata={"format": "pt"})
    with torch.inference_mode():
        found, missing = measuring.networks({table.CLIP})
        assert not missing
        edits = pictures(3, 2, 224)
        tower = vision.load_vision(CLIP_FILE)
        wanted = tower.encode_image(edits)["image_embeds"].float()
        torch.testing.assert_close(found[table.CLIP].images(edits), wanted, rtol=1e-3, atol=1e-4)
        texts = found[table.CLIP].texts(prompts)
        for row, prompt in zip(texts, prompts, strict=True):
            torch.testing.assert_close(
                row, hosts_text(state, prompt)[0].cpu(), rtol=1e-3, atol=1e-4)
        told = measuring.measure_edit(edits, edits, None, None, prompts[1], "")
    cosines = torch.nn.functional.cosine_similarity(wanted, texts[1:])
    mean = float(cosines.clamp(min=0).mean()) * 100
    assert told.means["clip_score"] == pytest.approx(mean, abs=1e-2)
    assert math.isnan(told.means["clip_direction"])


def test_masks_that_are_neither_one_nor_one_for_each_picture_are_an_error_before_anything(
    folders: dict[str, Path]
) -> None:
    """Cross-Attention Heatmaps gives one for each word, where none was chosen."""
    six = torch.rand(6, 64, 64)
    for count, edits in ((1, 6), (6, 1), (1, 1), (2, 2)):
        if len(six) not in (1, max(count, edits)):
            with pytest.raises(ValueError, match="looked_at holds 6 masks, but . pictures? .*word"):
                measuring.measure_edit(
                    pictures(1, count), pictures(2, edits), None, six, "a cat", "a dog")
        else:
            measuring.measure_edit(
                pictures(1, count), pictures(2, edits), None, six, "a cat", "a dog")


def test_a_file_that_is_not_there_is_a_row_with_its_name_and_place(
    folders: dict[str, Path]
) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :20, :20] = 1
    found = measuring.measure_edit(pictures(1), pictures(2), mask, mask, "a cat", "a dog")
    lines = found.report.splitlines()
    assert lines[0] == "1 edit of 64x64 pixels, 10% of them masked"
    assert len(lines) == 1 + len(table.METRICS) and len(found.means) == len(table.METRICS)
    for start, file in (("LPIPS squeeze", "lpips/squeezenet1_1-b8a52dc0.pth"),
                        ("NS-LPIPS", "lpips/alex.pth"),
                        ("structure distance", "clip_vision/dino-vitb8.safetensors"),
                        ("CLIPScore", "clip_vision/" + CLIP_FILE)):
        (line, *_) = (line for line in lines if line.startswith(start))
        assert f"models/{file} is missing" in line
    assert "-" not in lines[1] and lines[1].startswith("PSNR in dB, whole: ")
    assert found.means["psnr"] == pytest.approx(float(lines[1].split(": ")[1]), abs=0.01)
    assert math.isnan(found.means["clip_score"])


def test_what_is_not_connected_is_a_row_that_says_so(folders: dict[str, Path]) -> None:
    found = measuring.measure_edit(pictures(1), pictures(2), None, None, "", "", False)
    told = dict(line.split(": ", 1) for line in found.report.splitlines()[1:])
    assert told["PSNR in dB, unmasked pixels"] == "- (connect mask)"
    assert told["CLIPScore ViT-L/14, edited region (PIE-Bench)"] == "- (connect prompt and mask)"
    assert told["structure distance, DINO ViT-B/8 on 0..1"] == "- (networks is off)"


def test_lpips_comes_from_the_two_files_as_they_are_published(folders: dict[str, Path]) -> None:
    from torchvision import models

    generator = torch.Generator().manual_seed(4)
    trunk = models.squeezenet1_1().state_dict()
    weights = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
               for i, width in enumerate((64, 128, 256, 384, 384, 512, 512))}
    torch.save(trunk, folders["lpips"] / "squeezenet1_1-b8a52dc0.pth")
    torch.save(weights, folders["lpips"] / "squeeze.pth")
    first = pictures(1)
    with torch.inference_mode():
        told = measuring.measure_edit(first, torch.cat([first, pictures(2)]), None, None, "", "")
    assert told.means["lpips_squeeze_512"] > 0
    (line,) = (x for x in told.report.splitlines() if x.startswith("LPIPS squeeze"))
    assert "(0.0000, " in line


def test_a_tower_without_its_projection_is_refused_by_name(folders: dict[str, Path]) -> None:
    state = {k: v for k, v in clip_state().items() if k.startswith("text_model")}
    save_file(state, folders["clip_vision"] / CLIP_FILE)
    with pytest.raises(ValueError, match="no visual_projection.weight, so it is one of CLIP's tow"):
        measuring.networks({table.CLIP})


def test_a_damaged_file_is_named(folders: dict[str, Path]) -> None:
    (folders["clip_vision"] / "dino-vitb8.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match="dino-vitb8.safetensors cannot be read .*facebook/dino"):
        measuring.networks({table.DINO})


def test_prompts_are_one_for_all_or_one_for_each() -> None:
    with pytest.raises(ValueError, match="prompt has 2 lines, but 3 pictures are compared"):
        measuring.measure_edit(pictures(1), pictures(2, 3), None, None, "a\nb", "", False)


@pytest.mark.parametrize("shape", [(1,), (8, 8, 3), (1, 8, 8, 1), (1, 0, 8, 3), (0, 8, 8, 3)])
@pytest.mark.parametrize("place", ["reference", "edit"])
def test_what_is_no_picture_in_colour_is_an_error_that_says_its_shape(
    shape: tuple[int, ...], place: str
) -> None:
    given = {"reference": pictures(1), "edit": pictures(2), place: torch.zeros(shape)}
    with pytest.raises(ValueError, match=re.escape(f"the {place} has shape {shape}, but pict")):
        measuring.measure_edit(given["reference"], given["edit"], None, None, "", "", False)


def test_a_mask_without_a_count_is_one_mask() -> None:
    half = torch.zeros(64, 64).index_fill(0, torch.arange(32), 1)
    alone, counted = (
        measuring.measure_edit(pictures(1), pictures(2), mask, None, "", "", False).report
        for mask in (half, half[None]))
    assert alone == counted and "unmasked" in alone


def test_a_file_that_was_put_there_has_the_report_made_again(folders: dict[str, Path]) -> None:
    before = EditMetrics.fingerprint_inputs(reference=None)
    path = folders["clip_vision"] / "dino-vitb8.safetensors"
    path.write_bytes(b"first")
    there = EditMetrics.fingerprint_inputs(reference=None)
    os.utime(path, ns=(1, 1))
    assert before != there != EditMetrics.fingerprint_inputs(reference=None)
