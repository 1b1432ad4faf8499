"""Memory: what fits, what is said where it does not, and checkpoints that change nothing else."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import memory

from tests import golden
from tests.host.learn.one_step import learn

GIB = 2**30


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
                       "use a smaller picture, close other programs, run .* or learn nothing: "):
        estimate.choose(3 * GIB)
    with pytest.raises(MemoryError, match="use a smaller picture, set attention_weight to 0, clo"):
        replace(estimate, maps=True).choose(3 * GIB)


def test_a_run_has_the_weights_where_they_belong_before_the_unet_is_asked(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str) -> None:
        real = getattr(memory, name)
        monkeypatch.setattr(memory, name, lambda *given: (order.append(name), real(*given))[1])

    for name in ("require_room_for_copy", "begin_peak", "load_whole", "plan_memory", "report"):
        noted(name)
    with torch.inference_mode():
        model = golden.reloadable_unet()
        model.set_model_unet_function_wrapper(lambda apply, given: (
            order.append("asked"), apply(given["input"], given["timestep"], **given["c"]))[1])
        learn(model, 16, 16)
    start = order.index("require_room_for_copy")  # before it the picture was inverted
    assert order[start : start + 4] == [
        "require_room_for_copy", "begin_peak", "load_whole", "asked"]
    assert order.index("plan_memory") < order.index("report") == len(order) - 1


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
        asked = [weight.requires_grad for weight in model.model.parameters()]
        learn(model, 16, 16)
    (copied,) = clones
    assert [weight.requires_grad for weight in model.model.parameters()] == asked
    assert not any(weight.requires_grad for weight in copied.model.parameters())
    assert all(weight.grad is None
               for each in (model, copied) for weight in each.model.parameters())


@pytest.mark.parametrize(("device", "loaded", "beside", "asked"), [
    ("cuda", GIB, GIB, True), ("cuda", GIB, 3 * GIB, True), ("cuda", 3 * GIB, GIB, True),
    ("cuda", 3 * GIB, 3 * GIB, False), ("cpu", GIB, GIB, False)])
def test_weights_that_rest_beside_a_gpu_are_loaded_whole_with_the_runs_other_models(
    device: str, loaded: int, beside: int, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def load(models: list[Loaded], **how: Any) -> None:
        calls.append((models, how))
        for each in models:
            each.loaded = each.model_size()

    monkeypatch.setattr("comfy.model_management.load_models_gpu", load)
    model: Any = Loaded(device, loaded)
    other: Any = Loaded(device, beside)
    memory.load_whole(model, [other])
    assert calls == ([([model, other], {"force_full_load": True})] if asked else [])


def test_a_host_that_keeps_weights_elsewhere_all_the_same_is_an_error(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy.model_management.load_models_gpu", lambda *_, **__: None)
    with pytest.raises(MemoryError, match="all 3.0 GiB .*keeps some .* as with --novram"):
        memory.load_whole(Loaded("cuda", GIB), [])  # type: ignore[arg-type]


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
