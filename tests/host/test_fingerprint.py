"""A MODEL's fingerprint: what saved inversions carry, and weights that are no plain numbers."""

import hashlib
import math
from typing import Any

import pytest
import torch
from comfy.quant_ops import QuantizedTensor
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.model import fingerprint, hash_weights
from torch import Tensor

from tests import families, golden

LAYER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v"


def written_out(model: Any) -> str:
    """The digest of a model without patches, tensor by tensor."""
    weights = {f"diffusion_model.{name}": weight for name, weight in
               model.model.diffusion_model.state_dict().items()}
    names, digest = sorted(weights), hashlib.sha256()
    for name in names:
        digest.update(f"{name}{tuple(weights[name].shape)}".encode())
    for name in names[:: math.ceil(len(names) / 16)]:
        flat = weights[name].reshape(-1)
        for place in range(0, len(flat), math.ceil(len(flat) / 64)):
            digest.update(flat[place].float().numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16,
                                   torch.float8_e4m3fn])
def test_plain_weights_have_the_digest_that_was_always_theirs(dtype: torch.dtype) -> None:
    model = families.load("sd15", dtype)
    assert fingerprint(model) == written_out(model)


def test_the_recorded_unet_has_the_fingerprint_that_saved_inversions_carry() -> None:
    assert fingerprint(golden.load_unet()) == "bcbc420327521f16"


class Packed(torch.Tensor):
    """As GGUF's nodes keep weights: bytes that say they have another shape, and copy themselves."""

    @property
    def shape(self) -> Any:  # type: ignore[override]
        return torch.Size((32, 64))

    def clone(self, *_: Any, **__: Any) -> Any:
        return self

    detach = clone  # type: ignore[assignment]

    def flatten(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("packed")

    def to(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("packed")


class Opaque(torch.Tensor):
    """A wrapper that refuses every operation and tells nothing of what it holds."""

    @staticmethod
    def __new__(cls, *_: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (32, 64), dtype=torch.float16)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(str(func))


def packed(seed: int) -> Tensor:
    drawn = torch.randint(0, 255, (700,), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.uint8).as_subclass(Packed)


def quantised(seed: int) -> Any:
    drawn = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))
    return QuantizedTensor.from_float(drawn, "TensorCoreFP8E4M3Layout")


def integers(seed: int) -> Tensor:
    drawn = torch.randint(-9, 9, (32, 64), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.int8)


def eighths(seed: int) -> Tensor:
    return integers(seed).float().to(torch.float8_e5m2)


def digest(weight: Tensor) -> str:
    found = hashlib.sha256()
    hash_weights(found, {"layer.weight": weight, "plain": torch.ones(3)})
    return found.hexdigest()


@pytest.mark.parametrize("make", [packed, quantised, integers, eighths])
def test_weights_that_are_no_plain_floats_are_told_apart_by_what_they_hold(make: Any) -> None:
    assert digest(make(1)) == digest(make(1)) != digest(make(2))


def test_a_weight_that_cannot_be_looked_into_is_its_name_shape_and_kind() -> None:
    assert digest(Opaque()) == digest(Opaque())
    assert digest(Opaque()) != digest(torch.zeros(32, 64, dtype=torch.float16))
    assert digest(torch.empty(4, device="meta")) != digest(torch.empty(5, device="meta"))


def test_a_model_with_a_quantised_layer_has_a_fingerprint() -> None:
    plain, found = golden.load_unet(), []
    for seed in (1, 1):
        model = golden.load_unet()
        layer = model.model.get_submodule(LAYER)
        layer.weight = torch.nn.Parameter(quantised(seed), requires_grad=False)
        layer.register_buffer("weight_scale", torch.ones(1))
        found.append(fingerprint(model))
    assert found[0] == found[1] != fingerprint(plain)


def test_patches_that_are_applied_do_not_change_what_the_weights_were() -> None:
    import comfy.model_management

    model = golden.load_unet()
    model.add_patches({f"{LAYER}.weight": ("diff", (torch.ones(32, 64),))}, 0.5)
    before = fingerprint(model)
    comfy.model_management.load_models_gpu([model])
    assert model.backup, "the patch is applied"
    assert fingerprint(model) == before == "cab5c8ae31136320"


def test_an_inversion_takes_the_fingerprint_before_it_begins(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what cannot be told costs nobody an inversion."""
    class Untold(Exception):
        pass

    def fails(model: Any) -> str:
        raise Untold

    monkeypatch.setattr(inversion, "fingerprint", fails)
    monkeypatch.setattr(inversion, "run_inversion", lambda *_: pytest.fail("it began"))
    with torch.inference_mode(), pytest.raises(Untold):
        inversion.invert_latent(
            golden.load_unet(), Words(), {"samples": torch.zeros(1, 4, 8, 8)}, "a cat", "", 2)


class Words:
    """A text encoder whose every prompt is zeros."""

    def tokenize(self, prompt: str) -> str:
        return prompt

    def encode_from_tokens_scheduled(self, prompt: str) -> Any:
        return [(torch.zeros(1, 77, 64), {})]
