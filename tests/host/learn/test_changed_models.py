"""Learning on a model that other nodes have changed, or that is only partly loaded."""

from typing import Any

import comfy.model_patcher
import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from stylediffusion_pack.stylediffusion.host.attention import fused_attention
from stylediffusion_pack.stylediffusion.host.autograd import foreign
from stylediffusion_pack.stylediffusion.host.autograd.clone import differentiable_clone
from stylediffusion_pack.stylediffusion.host.model import fingerprint
from stylediffusion_pack.stylediffusion.method import data

from tests import golden
from tests.host.learn.small_run import plain_run, small_run


def test_weights_that_cannot_be_read_again_are_learnt_through_just_the_same() -> None:
    with torch.inference_mode():
        reloadable, bare = golden.reloadable_unet(), golden.load_unet()
        assert bare.cached_patcher_init is None
        assert all(p.is_inference() for p in bare.model.parameters())
        again, copied = small_run(reloadable), small_run(bare)
    assert again.losses == copied.losses
    assert torch.equal(again.scale, copied.scale) and torch.equal(again.shift, copied.shift)


VALUE_WEIGHT = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"


def weight_change(model: Any) -> torch.Tensor:
    shape = model.get_key_patches()[VALUE_WEIGHT][0][0].shape
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(4))


def with_change_in_its_weights(*_: Any, disable_dynamic: bool = False) -> Any:
    model = golden.load_unet()
    with torch.no_grad():
        model.get_key_patches()[VALUE_WEIGHT][0][0].add_(weight_change(model))
    return model


@pytest.mark.parametrize("load", [golden.reloadable_unet, golden.load_unet])
def test_a_patched_model_is_learnt_with_its_patches(load: Any) -> None:
    with torch.inference_mode():
        patched, changed = load(), with_change_in_its_weights()
        patched.add_patches({VALUE_WEIGHT: ("diff", (weight_change(patched),))}, 1.0)
        found, wanted, plain = small_run(patched), small_run(changed), plain_run()
    for own, same, other in zip(found.losses, wanted.losses, plain.losses, strict=True):
        assert own.total == pytest.approx(same.total, rel=1e-4)
        assert own.total != pytest.approx(other.total, rel=1e-2)


class Adapter:
    """An IP-Adapter in little: a module of its own and tokens beside the prompt's, in layers."""

    def __init__(self, inference: bool) -> None:
        with torch.inference_mode(inference):
            generator = torch.Generator().manual_seed(6)
            self.tokens = torch.randn(1, 4, 16, generator=generator)
            self.weights = {width: torch.randn(width, 16, generator=generator) / 4
                            for width in (32, 64)}
            self.mask = torch.tensor(0.5)

    def __call__(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        heard = torch.nn.functional.linear(self.tokens, self.weights[q.shape[-1]])
        heard = heard.expand(len(q), -1, -1)
        return (fused_attention(q, k, v, extra)
                + self.mask * fused_attention(q, heard, heard, extra))


@pytest.mark.parametrize("load", [golden.reloadable_unet, golden.load_unet])
def test_what_another_nodes_patch_holds_may_be_inference_tensors(load: Any) -> None:
    def run(adapter: Adapter) -> data.ValueEmbedding:
        with torch.inference_mode():
            model = load()
            for block, number in (("input", 1), ("middle", 0), ("output", 3)):
                model.set_model_attn2_replace(adapter, block, number)
            return small_run(model)

    found, wanted, plain = run(Adapter(True)), run(Adapter(False)), plain_run()
    assert found.losses == wanted.losses
    assert torch.equal(found.shift, wanted.shift)
    assert found.losses[0].total != pytest.approx(plain.losses[0].total, rel=1e-3)


def test_without_other_nodes_patches_no_operation_is_looked_at(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(foreign, "NormalTensors")
    with torch.inference_mode():
        small_run(golden.reloadable_unet(), inner_steps=1)
        patched = golden.reloadable_unet()
        patched.set_model_attn2_patch(lambda n, context, value, extra: (n, context, value))
        with pytest.raises(NameError, match="NormalTensors"):
            small_run(patched, inner_steps=1)


def test_a_partly_loaded_model_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plain_run()
    with torch.inference_mode():
        load = comfy.model_patcher.ModelPatcher.load
        partly: list[bool] = []

        def half(self: Any, device_to: Any = None, *arguments: Any, **options: Any) -> None:
            load(self, device_to, lowvram_model_memory=self.model_size() // 2)
            partly.append(self.model.model_lowvram)

        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", half)
        found = small_run(golden.reloadable_unet())
    assert any(partly)
    assert [x.total for x in found.losses] == pytest.approx([x.total for x in whole.losses])


def test_learning_leaves_no_gradient_and_no_patch_on_the_users_model() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        before = (dict(model.patches), dict(model.weight_wrapper_patches), fingerprint(model))
        asked = [p.requires_grad for p in model.model.parameters()]  # hosts before 0.27 do
        small_run(model)
    assert (model.patches, model.weight_wrapper_patches, fingerprint(model)) == before
    assert [p.requires_grad for p in model.model.parameters()] == asked
    assert all(p.grad is None for p in model.model.parameters())
    assert not model.model_options["transformer_options"]


def test_copies_on_other_devices_which_have_no_gradients_are_left_out_of_learning() -> None:
    model = golden.reloadable_unet()
    model.set_additional_models("multigpu", [golden.load_unet()])
    assert not differentiable_clone(model).get_additional_models_with_key("multigpu")
    assert len(model.get_additional_models_with_key("multigpu")) == 1


def test_the_exact_preset_learns_where_another_node_shrinks_the_first_steps() -> None:
    """Wanted maps are seen a level above the found ones: at one step only the first are shrunk."""
    with torch.inference_mode():
        shrunk = PatchModelAddDownscale.execute(
            golden.reloadable_unet(), 1, 2.0, 0.0, 0.5, True, "bilinear", "bilinear")[0]
        found = small_run(shrunk, inner_steps=1)
    assert all(loss.attention > 0 for loss in found.losses) and found.steps == 2
