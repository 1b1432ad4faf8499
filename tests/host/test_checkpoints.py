"""Blocks computed twice: every gradient as without, every map seen once."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.checkpoints import Checkpoints
from stylediffusion_pack.stylediffusion.host.unet import HostLearningModel

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
            noise, seen = model.hearing(latent, stage.LEVEL, scale, shift, True)
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
