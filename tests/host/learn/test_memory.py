"""Memory: the estimate meets what autograd keeps, checkpoints change nothing but memory."""

import gc
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import latent_preview
import pytest
import torch
from comfy.taesd.taesd import TAESD
from stylediffusion_pack.stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import memory
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from reference.live import Live
from tests import families, golden, stage
from tests.learning_requests import request

GIB = 2**30


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


def learn(model: Any, height: int, width: int) -> data.ValueEmbedding:
    """One step of two evaluations on a latent of this size."""
    generator = torch.Generator().manual_seed(8)
    cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
    levels = make_levels(1, training_alphas(model))
    samples = torch.randn(1, 4, height, width, generator=generator)
    inverted = inversion.run_inversion(model, samples, cond, levels)
    assert inverted.latents is not None
    trajectory = data.Trajectory(
        inverted.latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
    return host_learning.learn_value_embedding(
        model, trajectory, None, None, request(first_evaluations=2, good_enough_closing=0.0))


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


def test_where_memory_is_short_blocks_are_computed_twice_and_the_same_is_learnt(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        found = []
        for each in Checkpoints:
            monkeypatch.setattr(memory.Estimate, "choose", lambda self, free, each=each: each)
            found.append(learn(model, 16, 24))
    for tight in found[1:]:  # the sum over layers is taken in another order
        wanted = [loss.total for loss in found[0].losses]
        assert [loss.total for loss in tight.losses] == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(tight.scale, found[0].scale, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tight.shift, found[0].shift, rtol=1e-4, atol=1e-5)


def test_memory_that_does_not_suffice_is_an_error_with_the_numbers_and_the_remedies() -> None:
    estimate = memory.Estimate((8 * GIB, 7 * GIB, 5 * GIB))
    assert estimate.choose(9 * GIB) == estimate.choose(8 * GIB) == Checkpoints.OFF
    assert estimate.choose(8 * GIB - 1) == estimate.choose(7 * GIB) == Checkpoints.RESBLOCKS
    assert estimate.choose(7 * GIB - 1) == estimate.choose(5 * GIB) == Checkpoints.TRANSFORMERS
    with pytest.raises(MemoryError, match="about 5.0 GiB beside the model, and 3.0 GiB are free; "
                       "use a smaller picture, close other programs, or run"):
        estimate.choose(3 * GIB)
    with pytest.raises(MemoryError, match="use a smaller picture, set attention_weight to 0, clo"):
        replace(estimate, maps=True).choose(3 * GIB)


def reported(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("learning:")]
    return line


def test_one_line_of_the_log_has_the_estimate_the_choice_and_the_peak(
    caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "stylediffusion"), torch.inference_mode():
        learn(golden.reloadable_unet(), 16, 16)
    assert re.fullmatch(
        r"learning: 0\.0\d GiB estimated beside the model \(0\.0\d or 0\.0\d with checkpoints\), "
        r"[\d.]+ GiB free, checkpoints off, peak of the (process|run) [\d.]+ GiB",
        reported(caplog)), reported(caplog)


def test_on_a_gpu_the_peak_is_this_runs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, most = torch.device("cuda"), {"bytes": 20 * GIB}
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: most.update(bytes=7 * GIB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: most["bytes"])
    memory.begin_peak(gpu)
    room = memory.MemoryPlan(
        memory.Estimate((5 * GIB, 4 * GIB, GIB // 2)), 2 * GIB, Checkpoints.TRANSFORMERS)
    with caplog.at_level("INFO", "stylediffusion"):
        memory.report(room, gpu)
    assert reported(caplog) == (
        "learning: 5.00 GiB estimated beside the model (4.00 or 0.50 with checkpoints), 2.0 GiB "
        "free, checkpoints on for ResBlocks and transformer blocks, peak of the run 7.00 GiB")


def test_on_a_cpu_the_peak_is_the_processes() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system has no /proc to compare with")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    memory.begin_peak(torch.device("cpu"))
    found = memory.peak_bytes(torch.device("cpu"))
    assert found == pytest.approx(1024 * int(kib), rel=0.02)


class Loaded:
    """Of a MODEL only what loading it asks."""

    def __init__(self, device: str, loaded: int = 0) -> None:
        self.load_device, self.loaded = torch.device(device), loaded

    def model_size(self) -> int:
        return 3 * GIB

    def loaded_size(self) -> int:
        return self.loaded


@pytest.mark.parametrize(("device", "free", "total", "error"), [
    ("cpu", 3 * GIB - 1, 64 * GIB, "second copy of the model, 3.0 GiB, and 3.0 GiB are free"),
    ("cpu", 2 * GIB, 64 * GIB, "second copy of the model, 3.0 GiB, and 2.0 GiB are free"),
    ("cpu", 3 * GIB, 3 * GIB, None),
    ("cuda", GIB, 2 * GIB, "all 3.0 GiB of the model's weights on the GPU, and it has 2.0 GiB"),
    ("cuda", GIB, 3 * GIB, None),
])
def test_a_second_copy_that_does_not_fit_is_an_error_before_anything_starts(
    device: str, free: int, total: int, error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: free)
    monkeypatch.setattr("comfy.model_management.get_total_memory", lambda *_: total)
    model: Any = Loaded(device)
    if error is None:
        memory.require_room_for_copy(model)
    else:
        with pytest.raises(MemoryError, match=error):
            memory.require_room_for_copy(model)


@pytest.mark.parametrize(("before", "asked", "chosen"), [
    (8 * GIB, False, Checkpoints.OFF), (8 * GIB - 1, True, Checkpoints.RESBLOCKS)])
def test_the_host_puts_other_models_aside_only_where_memory_is_short(
    before: int, asked: bool, chosen: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, calls = [before], []

    def load(models: Any, **how: Any) -> None:
        calls.append((models, how))
        free[0] = 7 * GIB

    monkeypatch.setattr("comfy.model_management.load_models_gpu", load)
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: free[0])
    model, other = Loaded("cuda"), Loaded("cuda")
    estimate = memory.Estimate((8 * GIB, 6 * GIB, 5 * GIB))
    room = memory.plan_memory(*[model, [other]], estimate)
    how = {"memory_required": 8 * GIB, "force_full_load": True}
    assert calls == ([([model, other], how)] if asked else [])
    assert (room.checkpoints, room.free, room.estimate) == (chosen, free[0], estimate)


def test_nothing_but_the_value_embedding_collects_gradients(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    clones: list[Any] = []
    clone = host_learning.differentiable_clone
    monkeypatch.setattr(host_learning, "differentiable_clone", lambda model: (
        clones.append(clone(model)), clones[-1])[1])
    with torch.inference_mode():
        model = golden.reloadable_unet()
        learn(model, 16, 16)
    (copied,) = clones
    for weight in (*model.model.parameters(), *copied.model.parameters()):
        assert weight.grad is None and not weight.requires_grad


@pytest.mark.parametrize(("device", "loaded", "asked"), [
    ("cuda", GIB, True), ("cuda", 3 * GIB, False), ("cpu", GIB, False)])
def test_weights_that_rest_beside_a_gpu_are_loaded_whole_with_the_runs_other_models(
    device: str, loaded: int, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("comfy.model_management.load_models_gpu",
                        lambda *models, **how: calls.append((models, how)))
    model: Any = Loaded(device, loaded)
    other: Any = Loaded(device, GIB)
    memory.load_whole(model, [other])
    assert calls == ([(([model, other],), {"force_full_load": True})] if asked else [])


def test_weights_that_do_not_fit_a_gpu_are_an_error_with_the_numbers_and_the_remedies(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("comfy.model_management.load_models_gpu", full)
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: GIB)
    model: Any = Loaded("cuda", GIB)
    with pytest.raises(MemoryError, match="all 3.0 GiB of the model's weights on the GPU, and 1.0"):
        memory.load_whole(model, [])
