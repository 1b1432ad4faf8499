"""LPIPS against its formula on torchvision's networks, and against its authors' package."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stylediffusion_pack.stylediffusion.measures import perceptual
from torch import Tensor

AFTER = {"alex": (1, 4, 7, 9, 11), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
WIDTHS = {"alex": (64, 192, 384, 256, 256), "squeeze": (64, 128, 256, 384, 384, 512, 512)}


def features_of(name: str) -> torch.nn.Sequential:
    from torchvision import models

    with torch.device("meta"):
        whole = models.alexnet() if name == "alex" else models.squeezenet1_1()
    generator, features = torch.Generator().manual_seed(1), whole.features.to_empty(device="cpu")
    for weight in features.parameters():
        bound = (3 / max(1, weight[0].numel())) ** 0.5 if weight.ndim > 1 else 0.1
        torch.nn.init.uniform_(weight, -bound, bound, generator=generator)
    return features.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["alex", "squeeze"])
def parts(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Random tensors under the names of the two files, and the network built from them."""
    name, generator = request.param, torch.Generator().manual_seed(2)
    features = features_of(name)
    trunk = {f"features.{key}": tensor for key, tensor in features.state_dict().items()}
    weights = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
               for i, width in enumerate(WIDTHS[name])}
    return {"name": name, "features": features, "trunk": trunk, "weights": weights,
            "network": perceptual.build(name, trunk, weights)}


def pictures(seed: int, side: int, count: int = 1) -> Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def textbook_layers(parts: dict[str, Any], first: Tensor, second: Tensor) -> list[Tensor]:
    """sum_c w_c (f_c / |f| - g_c / |g|)^2 of each layer, on inputs [1, 3, h, w] meant as -1..1."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    found = []
    for i, last in enumerate(AFTER[parts["name"]]):
        one, two = (parts["features"][: last + 1]((x - shift) / scale) for x in (first, second))
        one, two = (f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (one, two))
        weight = parts["weights"][f"lin{i}.model.1.weight"]
        found.append((weight * (one - two) ** 2).sum(1))
    return found


def test_pie_benchs_is_the_formula_at_512_on_pictures_from_minus_one(parts: dict[str, Any]) -> None:
    first, second = pictures(1, 512), pictures(2, 512)
    layers = textbook_layers(parts, *(p.movedim(-1, 1) * 2 - 1 for p in (first, second)))
    wanted = sum(float(layer.mean()) for layer in layers)
    assert perceptual.lpips(parts["network"], first, second) == pytest.approx([wanted], rel=1e-5)


def test_other_sizes_are_brought_to_512_first(parts: dict[str, Any]) -> None:
    if parts["name"] == "squeeze":
        pytest.skip("one network tells it")
    first, second = pictures(1, 96), pictures(2, 96)
    large = [F.interpolate(p.movedim(-1, 1), (512, 512), mode="bilinear", antialias=True)
             for p in (first, second)]
    layers = textbook_layers(parts, *(p * 2 - 1 for p in large))
    wanted = sum(float(layer.mean()) for layer in layers)
    assert perceptual.lpips(parts["network"], first, second) == pytest.approx([wanted], rel=1e-5)


def test_the_unmasked_one_weighs_every_place_by_one_minus_the_mask(parts: dict[str, Any]) -> None:
    first, second = pictures(1, 512), pictures(2, 512)
    mask = torch.zeros(1, 512, 512)
    mask[:, 100:300, 50:400] = 1
    layers = textbook_layers(parts, *(p.movedim(-1, 1) * 2 - 1 for p in (first, second)))
    places = sum(F.interpolate(layer[:, None], (512, 512), mode="bilinear")[:, 0]
                 for layer in layers)
    wanted = float((places * (1 - mask)).sum() / (1 - mask).sum())
    found = perceptual.lpips_unmasked(parts["network"], first, second, mask)
    assert found == pytest.approx([wanted], rel=1e-5)
    for empty in (mask * 0, mask * 0 + 1):
        assert perceptual.lpips_unmasked(parts["network"], first, second, empty) == [None]


def test_the_released_codes_multiplies_by_a_soft_mask_and_does_not_centre(
    parts: dict[str, Any]
) -> None:
    first, second = pictures(1, 256), pictures(2, 256)
    looked = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.4
    kept = 1 - F.interpolate((looked / looked.max())[:, None], (256, 256), mode="bilinear")
    layers = textbook_layers(parts, *(p.movedim(-1, 1) * kept for p in (first, second)))
    wanted = sum(float(layer.mean()) for layer in layers)
    found = perceptual.ns_lpips(parts["network"], first, second, looked)
    assert found == pytest.approx([wanted], rel=1e-5)
    assert perceptual.ns_lpips(parts["network"], first, second, looked * 0) == [None]
    assert perceptual.ns_lpips(parts["network"], first, second, looked * 0 + 1) == [None]


def test_the_authors_package_gives_the_same_numbers(parts: dict[str, Any]) -> None:
    package = pytest.importorskip("lpips", reason="lpips is not installed (extra: metrics)")
    theirs = package.LPIPS(net=parts["name"], pretrained=False, pnet_rand=True, verbose=False)
    slices = {f"{key.split('.', 2)[2]}": key for key in theirs.net.state_dict()
              for key in [f"net.{key}"]}
    state = {slices[name.removeprefix("features.")]: tensor
             for name, tensor in parts["trunk"].items() if name.removeprefix("features.") in slices}
    missing, _ = theirs.load_state_dict({**state, **parts["weights"]}, strict=False)
    assert all(name.startswith(("lins.", "scaling_layer.")) for name in missing), missing
    first, second = pictures(1, 64), pictures(2, 64)
    one, two = (p.movedim(-1, 1) for p in (first, second))
    found = perceptual.mean_distance(parts["network"](one, two))
    with torch.no_grad():
        assert found == pytest.approx([float(theirs(one, two))], rel=1e-5)


def test_a_picture_is_no_distance_from_itself_and_batches_go_row_by_row(
    parts: dict[str, Any]
) -> None:
    looked, network = torch.eye(16)[None], parts["network"]
    first, many = pictures(1, 64), pictures(2, 64, 2)
    both = torch.cat([first, many[:1]])
    alone = perceptual.ns_lpips(network, first, many[:1], looked)
    found = perceptual.ns_lpips(network, first, both, looked)
    assert found == pytest.approx([0.0, *alone], rel=1e-5)
