"""Memory: the estimate meets what autograd keeps, checkpoints change nothing but memory."""

import gc
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion import artifacts, learning
from stylediffusion_pack.stylediffusion.host import inverting, memory
from stylediffusion_pack.stylediffusion.host import learning as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.schedule import make_levels

from tests import golden

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


def learn(model: Any, height: int, width: int) -> artifacts.ValueEmbedding:
    """One step of two evaluations on a latent of this size."""
    generator = torch.Generator().manual_seed(8)
    cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
    levels = make_levels(1, training_alphas(model))
    samples = torch.randn(1, 4, height, width, generator=generator)
    inverted = inverting.run_inversion(model, samples, cond, levels)
    assert inverted.latents is not None
    trajectory = artifacts.Trajectory(
        inverted.latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
    chosen = learning.LearningSettings(first_evaluations=2, good_enough_closing=0.0)
    return host_learning.learn_value_embedding(
        model, trajectory, None, None, host_learning.LearningWishes(chosen))


def kept_by_autograd(run: Any) -> int:
    """Bytes of all distinct storages that autograd was asked to keep, parameters left out."""
    storages: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.is_leaf and isinstance(tensor, torch.nn.Parameter)):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def test_the_estimate_is_what_one_pass_keeps_plus_a_margin(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}
    make_room, hearing = memory.make_room, host_learning.HostLearningModel.hearing

    def remember(model: Any, others: Any, estimate: memory.Estimate) -> memory.Room:
        found["estimate"] = estimate
        return make_room(model, others, estimate)

    def measured(self: Any, latent: Any, level: int, scale: Any, shift: Any, maps: bool) -> Any:
        kept: list[Any] = []
        if scale is not None and "bytes" not in found:
            found["bytes"] = kept_by_autograd(lambda: kept.append(
                hearing(self, latent, level, scale, shift, maps)))
            return kept[0]
        return hearing(self, latent, level, scale, shift, maps)

    monkeypatch.setattr(memory, "make_room", remember)
    monkeypatch.setattr(host_learning.HostLearningModel, "hearing", measured)
    with torch.inference_mode():
        learn(golden.reloadable_unet(), 40, 56)
    assert found["bytes"] < found["estimate"].whole < 1.5 * found["bytes"]
    assert found["estimate"].checkpointed < 0.9 * found["estimate"].whole


def test_checkpoints_switch_on_where_memory_is_short_and_change_no_number(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        plain = learn(model, 16, 24)
        again: list[Any] = []
        checkpointed = memory._checkpointed
        monkeypatch.setattr(memory, "_checkpointed", lambda *arguments: (
            again.append(1), checkpointed(*arguments))[1])
        monkeypatch.setattr(memory.Estimate, "choose", lambda self, free: True)
        tight = learn(model, 16, 24)
    assert again, "ResBlocks went through checkpoints"
    assert tight.losses == plain.losses
    assert torch.equal(tight.scale, plain.scale) and torch.equal(tight.shift, plain.shift)


def test_memory_that_does_not_suffice_is_an_error_with_the_numbers_and_the_remedies() -> None:
    estimate = memory.Estimate(whole=8 * GIB, checkpointed=5 * GIB)
    assert estimate.choose(9 * GIB) is False
    assert estimate.choose(6 * GIB) is True
    with pytest.raises(MemoryError, match="about 5.0 GiB beside the model, and 3.0 GiB are free; "
                       "use a smaller picture, close other programs, or run"):
        estimate.choose(3 * GIB)
    with pytest.raises(MemoryError, match="use a smaller picture, set attention_weight to 0, clo"):
        replace(estimate, maps=True).choose(3 * GIB)


def test_one_line_of_the_log_has_the_estimate_the_choice_and_the_peak(
    caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "stylediffusion"), torch.inference_mode():
        learn(golden.reloadable_unet(), 16, 16)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("learning:")]
    numbers = re.fullmatch(
        r"learning: ([\d.]+) GiB estimated beside the model \(([\d.]+) with checkpoints\), "
        r"([\d.]+) GiB free, checkpoints off, peak of the process ([\d.]+) GiB", line)
    assert numbers, line
    whole, light, free, peak = map(float, numbers.groups())
    assert 0 < light <= whole < peak < 100 and whole < free


def test_a_second_copy_that_does_not_fit_is_an_error_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: 1000)
    with pytest.raises(MemoryError, match="second copy of the model, 0.0 GiB, and 0.0 GiB are f"):
        memory.require_room_for_copy(golden.reloadable_unet())


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


class Loaded:
    """Of a MODEL only what loading it asks."""

    def __init__(self, device: str, loaded: int) -> None:
        self.load_device, self.loaded = torch.device(device), loaded

    def model_size(self) -> int:
        return 3 * GIB

    def loaded_size(self) -> int:
        return self.loaded


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
