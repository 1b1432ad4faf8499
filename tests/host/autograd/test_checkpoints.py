"""Blocks computed twice: every gradient as without, every map seen once."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel

from tests import families, golden, stage

SIZE = 16, 24


@pytest.mark.parametrize("with_maps", [False, True], ids=["latent loss", "and attention loss"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_gradients_are_those_without_checkpoints(family: str, with_maps: bool) -> None:
    found = {}

    def work(model: HostLearningModel, latent: torch.Tensor) -> None:
        wanted = stage.wanted_maps(model, latent) if with_maps else []
        for each in Checkpoints:
            model.checkpoints = each
            found[each] = stage.inner_step(model, latent, wanted)

    with torch.inference_mode():
        stage.with_learning_model(families.load(family), family, SIZE, work)
    loss, gradients = found[Checkpoints.OFF]
    for each in Checkpoints:
        assert found[each][0] == pytest.approx(loss, rel=1e-6)
        for mine, other in zip(found[each][1], gradients, strict=True):
            assert other.norm() > 0 and golden.relative(mine, other) < 1e-5, each


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_each_level_of_checkpoints_runs_its_blocks_twice_and_sees_each_map_once(
    family: str
) -> None:
    calls: dict[Any, list[int]] = {}
    maps: dict[Any, int] = {}

    def work(model: HostLearningModel, latent: torch.Tensor) -> None:
        wanted = stage.wanted_maps(model, latent)
        unet = model.model.diffusion_model
        for each in Checkpoints:
            model.checkpoints = each
            runs = {"ResBlock": 0, "BasicTransformerBlock": 0, "SpatialTransformer": 0}
            hooks = [module.register_forward_pre_hook(
                lambda m, _, runs=runs: runs.update({type(m).__name__: runs[type(m).__name__] + 1}))
                for module in unet.modules() if type(module).__name__ in runs]
            scale, shift = stage.values(latent)
            noise, seen = model.noise_with(latent, stage.LEVEL, scale, shift, True)
            maps[each] = len(seen)
            torch.autograd.grad(noise.sum() + sum(m.square().sum() for m in seen), [scale])
            assert len(seen) == maps[each], "the backward pass records nothing"
            assert maps[each] == len(wanted)
            for hook in hooks:
                hook.remove()
            calls[each] = list(runs.values())

    with torch.inference_mode():
        stage.with_learning_model(families.load(family), family, SIZE, work)
    once, resblocks, both = calls.values()
    # Blocks before the first cross-attention hear nothing that is learnt, and go once.
    early = 1 if family == "sd15" else 2
    assert resblocks == [2 * once[0] - early, once[1], once[2]]
    assert both == [2 * once[0] - early, 2 * once[1], once[2]]


def test_other_nodes_patches_see_the_same_layers_in_both_computations() -> None:
    seen: list[Any] = []

    def patch(n: Any, context: Any, value: Any, extra: dict[str, Any]) -> Any:
        seen.append(tuple(str(extra.get(key)) for key in (
            "block", "block_index", "transformer_index", "activations_shape", "original_shape",
            "cond_or_uncond", "n_heads")))
        return n, context, value

    def work(model: HostLearningModel, latent: torch.Tensor) -> list[Any]:
        passes = []
        for each in Checkpoints:
            model.checkpoints = each
            seen.clear()
            scale, shift = stage.values(latent)
            noise, _ = model.noise_with(latent, stage.LEVEL, scale, shift, False)
            forward = list(seen)
            seen.clear()
            with torch.autograd.set_multithreading_enabled(False):
                torch.autograd.grad(noise.sum(), [scale])
            passes.append((forward, list(seen)))
        return passes

    with torch.inference_mode():
        model = families.load("sdxl")
        model.set_model_attn2_patch(patch)
        (once, none), (resblocks, still_none), (both, again) = stage.with_learning_model(
            model, "sdxl", SIZE, work)
    assert len(once) == len(set(once)) == 2 + 3 + 3 + 3 + 3 + 2 + 2
    assert once == resblocks == both and none == still_none == []
    assert sorted(again) == sorted(once)


def test_what_another_nodes_patch_holds_may_be_inference_tensors_in_both_computations() -> None:
    def work(model: HostLearningModel, latent: torch.Tensor) -> list[Any]:
        found = []
        for each in Checkpoints:
            model.checkpoints = each
            found.append(stage.inner_step(model, latent, [])[1][0])
        return found

    with torch.inference_mode():
        model, weight = families.load("sd15"), torch.full((1,), 1.1)
        model.set_model_attn1_output_patch(lambda n, extra: n * weight.to(n))
        assert weight.is_inference()
        first, *others = stage.with_learning_model(model, "sd15", SIZE, work)
    for other in others:
        assert golden.relative(other, first) < 1e-5
