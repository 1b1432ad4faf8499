"""The copy of a MODEL that learning differentiates: weights in memory, or read again."""

from typing import Any

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.autograd.clone import differentiable_clone

from tests import golden

WEIGHT = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"


class Reader:
    """A loader that counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: Any, disable_dynamic: bool = False) -> Any:
        self.count += 1
        return golden.load_unet()


def reloadable(kind: Any = comfy.model_patcher.ModelPatcher) -> tuple[Any, Reader]:
    reader = Reader()
    with torch.inference_mode():
        plain = golden.load_unet()
    model = kind(plain.model, plain.load_device, plain.offload_device)
    model.cached_patcher_init = (reader, ())
    return model, reader


def cloned(model: Any) -> Any:
    with torch.inference_mode(False):
        return differentiable_clone(model)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.model.named_parameters()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_a_plain_models_weights_are_copied_without_its_file_and_are_its_own() -> None:
    model, reader = reloadable()
    before, clone = weights(model), cloned(model)
    assert reader.count == 0
    assert_same(weights(clone), before)
    assert not any(p.is_inference() or p.requires_grad for p in clone.model.parameters())
    assert not clone.weight_wrapper_patches
    with torch.no_grad():
        for weight in clone.model.parameters():
            weight.zero_()
    assert_same(weights(model), before)
    assert all(p.is_inference() for p in model.model.parameters()), "the user's stay as they were"


@pytest.mark.parametrize("partly", [False, True])
def test_a_lora_that_is_applied_is_applied_once(
    partly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all of the model is loaded, or half of it and patches wait for the rest."""
    model, reader = reloadable()
    before = weights(model)
    change = torch.ones_like(before[WEIGHT])
    model.add_patches({WEIGHT: ("diff", (change,))}, 0.5)
    if partly:
        load = comfy.model_patcher.ModelPatcher.load
        monkeypatch.setattr(
            comfy.model_patcher.ModelPatcher, "load",
            lambda self, device_to=None, *_, **__: load(
                self, device_to, lowvram_model_memory=self.model_size() // 2))
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
    applied = weights(model)
    assert model.model.model_lowvram == partly
    if not partly:
        torch.testing.assert_close(applied[WEIGHT], before[WEIGHT] + 0.5 * change)
    clone = cloned(model)
    assert reader.count == 0
    assert_same(weights(clone), before)
    assert clone.patches.keys() == {WEIGHT} and not clone.backup
    monkeypatch.undo()
    with torch.inference_mode(False):
        comfy.model_management.load_models_gpu([clone], force_full_load=True)
    torch.testing.assert_close(weights(clone)[WEIGHT], before[WEIGHT] + 0.5 * change)
    assert_same(weights(model), applied)
    model.unpatch_model(model.offload_device)
    assert_same(weights(model), before)


def test_object_patches_of_a_loaded_model_are_the_clones_too() -> None:
    model, _ = reloadable()
    own = model.model.model_sampling
    other = type(own)(model.model.model_config)
    model.add_object_patch("model_sampling", other)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
    assert model.model.model_sampling is other
    clone = cloned(model)
    assert clone.get_model_object("model_sampling") is other
    assert clone.model.model_sampling is not own
    assert model.model.model_sampling is other and model.object_patches_backup


class Dynamic(comfy.model_patcher.ModelPatcher):
    """The host's patcher that streams weights in, as far as its clones are concerned."""

    def is_dynamic(self) -> bool:
        return True


def test_a_dynamic_model_is_read_again() -> None:
    model, reader = reloadable(Dynamic)
    clone = cloned(model)
    assert reader.count == 1 and type(clone) is comfy.model_patcher.ModelPatcher
    assert not any(p.is_inference() for p in clone.model.parameters())


def test_a_dynamic_model_that_cannot_be_read_again_is_an_error_that_says_what_to_do() -> None:
    model, reader = reloadable(Dynamic)
    model.cached_patcher_init = None
    with pytest.raises(ValueError, match=r"\((SD15|BaseModel)\) streams its weights in.*"
                       "loaders, or start ComfyUI with --disable-dynamic-vram"):
        cloned(model)


def test_what_is_put_into_the_modules_of_a_dynamic_model_is_refused_by_its_name() -> None:
    model, _ = reloadable(Dynamic)
    model.set_injections("bypass_lora", [])
    with pytest.raises(ValueError, match="bypass_lora is put into the modules .*with Load LoRA"):
        cloned(model)


class Foreign(comfy.model_patcher.ModelPatcher):
    """Another node's patcher, whose weights may be anything."""


def test_another_nodes_patcher_is_read_again_or_its_weights_copied_as_they_are_used() -> None:
    model, reader = reloadable(Foreign)
    assert not cloned(model).weight_wrapper_patches and reader.count == 1
    model.cached_patcher_init = None
    clone = cloned(model)
    assert clone.model is model.model
    assert clone.weight_wrapper_patches.keys() == dict(model.model.named_parameters()).keys()
