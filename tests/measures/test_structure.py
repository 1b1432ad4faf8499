"""Structure distance: DINO's keys against transformers, the distance against its formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stylediffusion_pack.stylediffusion.measures import dino, structure
from torch import Tensor
from torchvision.transforms import v2

WIDTH, LAYERS, PATCH, SIDE = 128, 3, 8, 224
TOKENS = (SIDE // PATCH) ** 2 + 1


def random_state() -> dict[str, Tensor]:
    """Random tensors under the names of facebook/dino-vitb8, smaller."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int, around: float = 0.0) -> Tensor:
        return around + 0.05 * torch.randn(*shape, generator=generator)

    state = {
        "embeddings.cls_token": drawn(1, 1, WIDTH),
        "embeddings.position_embeddings": drawn(1, TOKENS, WIDTH),
        "embeddings.patch_embeddings.projection.weight": drawn(WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": drawn(WIDTH),
        "layernorm.weight": drawn(WIDTH, around=1.0), "layernorm.bias": drawn(WIDTH)}
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}."
        square, up, down = (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)
        for part, shape in {"attention.attention.query": square, "attention.attention.key": square,
                            "attention.attention.value": square, "attention.output.dense": square,
                            "intermediate.dense": up, "output.dense": down}.items():
            state |= {f"{name}{part}.weight": drawn(*shape), f"{name}{part}.bias": drawn(shape[0])}
        for part in ("layernorm_before", "layernorm_after"):
            state |= {f"{name}{part}.weight": drawn(WIDTH, around=1.0),
                      f"{name}{part}.bias": drawn(WIDTH)}
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def library(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' own ViT, from a folder laid out as the published one is."""
    from transformers import ViTModel

    folder: Path = tmp_path_factory.mktemp("dino")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "model_type": "vit", "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": WIDTH // 64, "intermediate_size": 4 * WIDTH, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "image_size": SIDE, "patch_size": PATCH, "qkv_bias": True}))
    return ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()


def librarys_keys(library: Any, pixels: Tensor) -> Tensor:
    """What the key projection of the last block gives, by whatever name it has there."""
    (key,) = (module for name, module in library.named_modules()
              if f".{LAYERS - 1}." in name and name.endswith((".key", "k_proj")))
    seen: list[Tensor] = []
    handle = key.register_forward_hook(lambda module, given, found: seen.append(found))
    with torch.no_grad():
        library(pixel_values=pixels, interpolate_pos_encoding=True)
    handle.remove()
    return seen[0]


def prepared(pictures: Tensor, times: float) -> Tensor:
    """Resize(224, max_size=480) and ImageNet's mean and deviation, by torchvision."""
    steps = v2.Compose([
        v2.Resize(224, max_size=480, antialias=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    return steps(pictures.movedim(-1, 1) * times)


def pictures(seed: int, height: int, width: int) -> Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("times", [1.0, 255.0])
@pytest.mark.parametrize("size", [(64, 64), (300, 300), (120, 200), (600, 200)])
def test_the_keys_are_those_of_transformers(
    state: dict[str, Tensor], library: Any, size: tuple[int, int], times: float
) -> None:
    drawn = pictures(1, *size)
    wanted = librarys_keys(library, prepared(drawn, times))
    found = dino.keys(state, drawn, times)
    if size[0] == size[1]:
        assert found.shape == (1, 785, WIDTH)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_distance_is_the_mean_squared_difference_of_all_cosines() -> None:
    first, second = torch.randn(2, 1, 7, 5, generator=torch.Generator().manual_seed(2))
    described = {0.25: first, 0.75: second}

    def describe(pictures: Tensor) -> Tensor:
        return described[float(pictures.mean())]

    total = 0.0
    for i in range(7):
        for j in range(7):
            cosines = [float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm()))
                       for rows in (first[0], second[0])]
            total += (cosines[0] - cosines[1]) ** 2 / 49
    grey = torch.full((1, 4, 4, 3), 0.25)
    assert structure.structure_distance(describe, grey, grey * 3) == pytest.approx([total])
    assert structure.structure_distance(describe, grey, grey) == [0.0]


def test_a_convolutions_features_are_a_descriptor_for_each_place() -> None:
    features = torch.arange(24.0).view(1, 2, 3, 4)
    found = structure.spatial_descriptors(features)
    assert found.shape == (1, 12, 2)
    assert found[0, 5].tolist() == [5.0, 17.0], "row 1, column 1"
