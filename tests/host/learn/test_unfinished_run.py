"""A learning run that was stopped goes on after its last finished step."""

import os
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import unfinished_run
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data, learning
from stylediffusion_pack.stylediffusion.method.schedule import make_levels
from stylediffusion_pack.stylediffusion.storage import writing

from tests import golden
from tests.learning_requests import request

STEPS = 4


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def trajectory(model: Any) -> data.Trajectory:
    return inverted_under(model)


def inverted_under(model: Any) -> data.Trajectory:
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(8)
        cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
        levels = make_levels(STEPS, training_alphas(model))
        samples = torch.randn(1, 4, 16, 16, generator=generator)
        inverted = inversion.run_inversion(model, samples, cond, levels)
        assert inverted.latents is not None
        return data.Trajectory(inverted.latents, levels, "", "", cond, uncond,
                                    inverted.layers, fingerprint(model))


def learn(model: Any, trajectory: Any, fast: bool, seed: int = 0) -> data.ValueEmbedding:
    chosen = request(fast, seed=seed, inner_steps=2, first_evaluations=3, evaluations=2,
                     closing_evaluations=2, last_evaluations=2)
    with torch.inference_mode():
        return host_learning.learn_value_embedding(model, trajectory, None, None, chosen)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    keep = host_learning.HostWatch.keep

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        keep(self, learnt)
        if learnt.steps == steps:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(host_learning.HostWatch, "keep", stopping)


@pytest.mark.parametrize("fast", [True, False])
def test_a_stopped_run_goes_on_and_ends_in_the_same_bits(
    fast: bool, model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn(model, trajectory, fast)
    assert not list(user_folder.iterdir()), "nothing stays of a finished run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, fast)
    assert len(list(user_folder.iterdir())) == 1
    evaluated: list[int] = []
    after = host_learning.HostWatch.after_inner
    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "after_inner", lambda self, loss: (
            evaluated.append(loss.step), after(self, loss))[1])
        resumed = learn(model, trajectory, fast)
    assert set(evaluated) == {2, 3}, "finished steps are not learnt again"
    assert resumed.scale.equal(whole.scale) and resumed.shift.equal(whole.shift)
    assert resumed.losses == whole.losses
    assert not list(user_folder.iterdir())


def test_other_settings_begin_anew_and_leave_the_stopped_run_alone(
    model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, True)
    other = learn(model, trajectory, True, seed=1)
    assert {loss.step for loss in other.losses} == set(range(STEPS))
    assert len(list(user_folder.iterdir())) == 1


def test_a_run_under_another_nodes_patch_begins_anew(
    model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, picture and prompts are the same; what the patch does shows in the noise."""
    patched = model.clone()
    patched.set_model_attn2_patch(lambda n, context, value, extra: (n, context, 0.5 * value))
    other = inverted_under(patched)
    assert other.fingerprint == trajectory.fingerprint
    assert torch.equal(other.latents[0], trajectory.latents[0])
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, True)
    assert len(list(user_folder.iterdir())) == 1
    for way in (other, trajectory):
        begun, anew = (learn(patched, way, True) for _ in range(2))
        assert begun.losses == anew.losses and len({loss.step for loss in anew.losses}) == STEPS
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                learn(model, trajectory, True)


def cut(content: bytearray) -> bytearray:
    return content[:-100]


def changed(content: bytearray) -> bytearray:
    content[-100] ^= 1
    return content


@pytest.mark.parametrize("damage", [cut, changed])
def test_a_damaged_file_is_not_gone_on_from_and_that_is_said(
    damage: Any, model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, True)
    (path,) = user_folder.iterdir()
    path.write_bytes(damage(bytearray(path.read_bytes())))
    found = learn(model, trajectory, True)
    assert {loss.step for loss in found.losses} == set(range(STEPS))
    assert f"the unfinished run in {path} is damaged (" in caplog.text
    assert "so learning begins anew" in caplog.text and not path.exists()


def test_files_go_after_a_week(model: Any, trajectory: Any, user_folder: Path) -> None:
    user_folder.mkdir()
    old, young = (user_folder / f"{name}.learning.safetensors" for name in ("old", "young"))
    for path, days in ((old, 8), (young, 6)):
        path.touch()
        os.utime(path, (time.time() - days * 86400,) * 2)
    learn(model, trajectory, True)
    assert not old.exists() and young.exists()


class Clock:
    """Seconds that pass as told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_is_written_at_most_a_twentieth_of_the_time_and_whole_when_it_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, written = Clock(), []
    monkeypatch.setattr(unfinished_run.time, "monotonic", clock)

    def slow(path: Path, learnt: learning.Learnt, *_: Any) -> None:
        clock.now += 2.0
        written.append(learnt.steps)

    monkeypatch.setattr(unfinished_run.learning_file, "save", slow)
    writer = unfinished_run.RunWriter(unfinished_run.RunFile(tmp_path / "run", "k"))
    for steps in range(1, 50):
        clock.now += 3.0
        table = torch.zeros(steps, 77, 8)
        writer.keep(learning.Learnt(table, table, torch.zeros(1)), torch.zeros(1))
    assert written == [1, 15, 29, 43], "14 steps of 3 seconds are the first to last 40"
    writer.finish()
    assert written == [1, 15, 29, 43, 49]
    writer.finish()
    assert written == [1, 15, 29, 43, 49], "nothing new is there"


@pytest.mark.parametrize("fast", [True, False])
def test_steps_that_were_not_written_are_not_lost_when_a_run_is_stopped(
    fast: bool, model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn(model, trajectory, fast)
    monkeypatch.setattr(unfinished_run, "SPARING", 1e9)
    before = host_learning.HostWatch.after_inner

    def stopping(self: Any, loss: data.InnerLoss) -> None:
        before(self, loss)
        if loss.step == 2 and loss.inner == 1:
            raise ValueError("stopped in the middle of the third step")

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "after_inner", stopping)
        with pytest.raises(ValueError, match="third step"):
            learn(model, trajectory, fast)
    evaluated: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "after_inner", lambda self, loss: (
            evaluated.append(loss.step), before(self, loss))[1])
        resumed = learn(model, trajectory, fast)
    assert set(evaluated) == {2, 3}
    assert resumed.scale.equal(whole.scale) and resumed.shift.equal(whole.shift)
    assert not list(user_folder.iterdir())


@pytest.mark.parametrize("error", [
    OSError("No space left on device"), SafetensorError("I/O error: no space left"),
    PermissionError("read-only")], ids=repr)
def test_a_folder_that_cannot_be_written_is_a_warning_once_a_run(
    error: Exception, model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(unfinished_run.learning_file, "save", full)
    for runs in (1, 2):
        assert learn(model, trajectory, True).steps == STEPS
        told = [r for r in caplog.records if "the unfinished run cannot be kept in" in r.message]
        assert len(told) == runs and all(r.levelname == "WARNING" for r in told)
    assert str(error) in told[0].message and "make the folder writable" in told[0].message


def test_a_file_where_the_folder_should_be_is_a_warning_too(
    model: Any, trajectory: Any, user_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user_folder.write_text("not a folder")
    assert learn(model, trajectory, True).steps == STEPS
    assert caplog.text.count("the unfinished run cannot be kept in") == 1


def test_a_file_of_an_earlier_form_is_begun_anew(
    model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until now the pairs of L-BFGS lay there one by one."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, True)
    (path,) = user_folder.iterdir()
    tensors = load_file(path)
    pairs, metadata = tensors.pop("solver.pairs"), {}
    del tensors["solver.grams"], tensors["solver.loss_scale"]
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors |= {"solver.step.0": pairs[0, -1].clone(), "solver.change.0": pairs[1, -1].clone()}
    writing.write_whole(path, tensors, {k: metadata[k] for k in ("format", "key")})
    assert {loss.step for loss in learn(model, trajectory, True).losses} == set(range(STEPS))
