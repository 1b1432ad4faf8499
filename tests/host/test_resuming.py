"""A learning run that was stopped goes on after its last finished step."""

import os
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from stylediffusion_pack.stylediffusion import artifacts, learning
from stylediffusion_pack.stylediffusion.host import inverting
from stylediffusion_pack.stylediffusion.host import learning as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.schedule import make_levels

from tests import golden

STEPS = 4


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def trajectory(model: Any) -> artifacts.Trajectory:
    return inverted_under(model)


def inverted_under(model: Any) -> artifacts.Trajectory:
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(8)
        cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
        levels = make_levels(STEPS, training_alphas(model))
        samples = torch.randn(1, 4, 16, 16, generator=generator)
        inverted = inverting.run_inversion(model, samples, cond, levels)
        assert inverted.latents is not None
        return artifacts.Trajectory(inverted.latents, levels, "", "", cond, uncond,
                                    inverted.layers, fingerprint(model))


def learn(model: Any, trajectory: Any, fast: bool, seed: int = 0) -> artifacts.ValueEmbedding:
    chosen = learning.LearningSettings(inner_steps=2, evaluations=2, first_evaluations=3)
    with torch.inference_mode():
        return host_learning.learn_value_embedding(
            model, trajectory, None, None, host_learning.LearningWishes(chosen, fast, seed=seed))


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


def test_a_damaged_file_is_not_gone_on_from(
    model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, True)
    (path,) = user_folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    found = learn(model, trajectory, True)
    assert {loss.step for loss in found.losses} == set(range(STEPS))


def test_files_go_after_a_week(model: Any, trajectory: Any, user_folder: Path) -> None:
    user_folder.mkdir()
    old, young = (user_folder / f"{name}.learning.safetensors" for name in ("old", "young"))
    for path, days in ((old, 8), (young, 6)):
        path.touch()
        os.utime(path, (time.time() - days * 86400,) * 2)
    learn(model, trajectory, True)
    assert not old.exists() and young.exists()
