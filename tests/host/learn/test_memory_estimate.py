"""The estimate of memory meets what autograd keeps, and a run keeps nothing after its end."""

import gc
from typing import Any

import latent_preview
import pytest
import torch
from comfy.taesd.taesd import TAESD
from stylediffusion_pack.stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion_pack.stylediffusion.host.learn import memory
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel

from reference.live import Live
from tests import families, golden, stage
from tests.host.learn.one_step import learn


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


def test_a_run_leaves_no_tensors_behind() -> None:
    with torch.inference_mode():
        model, counts = golden.reloadable_unet(), []
        for _ in range(3):
            learn(model, 16, 24)
            counts.append(live_tensors())
    assert counts[2] == counts[1], counts


@pytest.mark.parametrize("with_maps", [False, True], ids=["latent loss", "and attention loss"])
@pytest.mark.parametrize(("family", "dtype"), [
    ("sd15", torch.float32), ("sdxl", torch.float32), ("sd15", torch.bfloat16)])
def test_the_estimate_is_the_most_that_lives_in_an_inner_step_and_little_more(
    family: str, dtype: torch.dtype, with_maps: bool
) -> None:
    found: dict[Checkpoints, tuple[int, int]] = {}

    def work(model: HostLearningModel, latent: torch.Tensor) -> None:
        needed = model.keeps(latent, 64, with_maps).needed
        for each in Checkpoints:
            model.checkpoints = each
            with Live() as live:
                wanted = stage.wanted_maps(model, latent) if with_maps else []
                live.peak = live.bytes
                stage.inner_step(model, latent, wanted)
            found[each] = needed[each], live.peak

    with torch.inference_mode():
        stage.with_learning_model(families.load(family, dtype), family, (40, 56), work)
    for each, (needed, peak) in found.items():
        assert peak < needed < 1.3 * peak, (each, needed / peak)
    assert found[Checkpoints.TRANSFORMERS][1] < 0.5 * found[Checkpoints.OFF][1]


def test_the_estimate_looks_at_two_corners_of_the_latent_and_of_what_goes_with_it() -> None:
    seen: set[tuple[int, ...]] = set()

    def patch(n: Any, context: Any, value: Any, extra: dict[str, Any]) -> Any:
        seen.add(tuple(extra["original_shape"]))
        return n, context, value

    def work(model: HostLearningModel, latent: torch.Tensor) -> None:
        seen.clear()
        model.keeps(latent, 64, False)

    with torch.inference_mode():
        model = families.load("inpainting")
        model.set_model_attn2_patch(patch)
        stage.with_learning_model(model, "inpainting", (24, 32), work)
    assert seen == {(1, 9, 8, 8), (1, 9, 16, 16)}


def test_what_is_computed_twice_stands_there_as_its_input_and_once_whole() -> None:
    def kept(*, blocks: float, rest: float) -> memory.GraphBytes:
        parts = (torch.tensor(values, dtype=torch.float64) for values in (
            [3 * blocks, 5 * blocks], [7 * blocks, 2 * blocks], rest, blocks, 4 * blocks))
        return memory.GraphBytes(*parts)

    assert kept(blocks=1, rest=10).needed() == (8 + 9 + 10, 1 + 9 + 10 + 5, 1 + 4 + 10 + 7)
    # 64 cells keep 1 a unit and 256 keep 4, so 1600 keep 25; the rest goes 10, 16, 58.
    wanted = kept(blocks=1, rest=10).at(64, kept(blocks=4, rest=16), 256, 1600)
    assert wanted.needed() == pytest.approx(kept(blocks=25, rest=58).needed())


def previewer_of(monkeypatch: pytest.MonkeyPatch) -> latent_preview.TAESDPreviewerImpl:
    """What the host takes for previews where it was started with TAESD's."""
    previewer = latent_preview.TAESDPreviewerImpl(TAESD())
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: previewer)
    return previewer


def estimates_of(monkeypatch: pytest.MonkeyPatch) -> list[memory.Estimate]:
    """Every estimate that a run is given room for."""
    found: list[memory.Estimate] = []
    plan = memory.plan_memory
    monkeypatch.setattr(memory, "plan_memory", lambda model, others, estimate: (
        found.append(estimate), plan(model, others, estimate))[1])
    return found


def test_previews_by_a_decoder_need_what_the_estimate_says_and_keep_no_graph(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    previewer, estimates = previewer_of(monkeypatch), estimates_of(monkeypatch)
    peaks: list[int] = []
    decode = previewer.taesd.decode

    def measured(latent: torch.Tensor) -> torch.Tensor:
        with Live() as live:
            out = decode(latent)
        peaks.append(live.peak)
        return out

    monkeypatch.setattr(previewer.taesd, "decode", measured)
    with torch.inference_mode():
        learn(golden.reloadable_unet(), 24, 40)
    (estimate,) = estimates
    assert peaks[-1] < min(estimate.needed) < 1.3 * peaks[-1]
    assert memory.preview_bytes(None, torch.zeros(1, 4, 24, 40)) == 0


def test_maps_of_the_whole_picture_are_counted_beside_the_graph() -> None:
    def work(model: HostLearningModel, latent: torch.Tensor) -> list[memory.Estimate]:
        return [model.keeps(latent, 64, maps) for maps in (False, True)]

    with torch.inference_mode():
        without, with_maps = stage.with_learning_model(
            families.load("sd15"), "sd15", (64, 64), work)
    # Five layers on a 16x16 grid, eight heads, 77 tokens, in fp32: wanted, and their gradients.
    maps = 5 * 8 * 16 * 16 * 77 * 4
    more = [b - a for a, b in zip(without.needed, with_maps.needed, strict=True)]
    assert (without.maps, with_maps.maps) == (False, True)
    assert min(more[:2]) > 2 * maps and more[2] >= 3 * maps
