"""Learning under a ControlNet, which is asked once a step and left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.model_management
import pytest
import torch
from stylediffusion_pack.stylediffusion.host import control_nets
from stylediffusion_pack.stylediffusion.host.autograd import foreign
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.method import data, learning

from tests import golden
from tests.host.controlled import (
    GUIDANCE,
    KINDS,
    STEPS,
    control_lora,
    hint,
    inverted,
    learn,
    plain_control_net,
    released,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def control_net() -> Any:
    return plain_control_net()


@pytest.fixture(scope="module")
def trajectory(model: Any, control_net: Any) -> data.Trajectory:
    return inverted(model, control_net, hint())


@pytest.mark.parametrize(("kind", "fast"), [
    ("ControlNet", True), ("ControlNet", False), ("ControlLora", True)])
def test_learning_under_a_control_net_lowers_the_loss_and_leaves_it_as_it_was(
    model: Any, kind: str, fast: bool
) -> None:
    made = KINDS[kind]()
    before = control_nets._weights(made)
    kept = {name: (tensor.clone(), tensor.requires_grad) for name, tensor in before.items()}
    way = inverted(model, made, hint())
    embedding = learn(model, way, fast)
    for step in range(STEPS):
        losses = [loss.total for loss in embedding.losses if loss.step == step]
        assert len(losses) > 1 and min(losses) < losses[0], step
    assert not embedding.scale.requires_grad and not embedding.shift.requires_grad
    after = control_nets._weights(made)
    assert after.keys() == kept.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, kept[name][0]) and tensor.grad is None, name
        assert tensor.requires_grad == kept[name][1], name
    used = control_nets.control_net_of(way)
    assert used.cond_hint is None and used.previous_controlnet is None
    assert golden.relative(learn(model, released(way), fast).scale, embedding.scale) > 1e-3


def test_what_was_learnt_brings_the_picture_back_under_the_control_net_only(
    model: Any, trajectory: data.Trajectory
) -> None:
    embedding = learn(model, trajectory, evaluations=16)
    clean = vp_to_host(model, trajectory.latents[:1])
    with torch.inference_mode():
        learnt, plain, without = (
            golden.relative(
                sampling.sample_edits(Edit(model, way, e, None, GUIDANCE))["samples"], clean
            )
            for way, e in (
                (trajectory, embedding),
                (trajectory, None),
                (released(trajectory), embedding),
            )
        )
    assert learnt < 0.5 * plain and learnt < 0.5 * without


def learn_one_step(model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after it, as by a person."""
    keep = host_learning.HostWatch.keep

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        keep(self, learnt)
        raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep", stopping)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory)


def test_a_stopped_run_is_not_gone_on_from_under_another_control_net(
    model: Any, control_net: Any, trajectory: Any, user_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learn_one_step(model, trajectory, monkeypatch)
    for other in (inverted(model, control_net, hint(42)), inverted(model)):
        assert {loss.step for loss in learn(model, other).losses} == set(range(STEPS))
    again = inverted(model, control_net, hint())
    assert {loss.step for loss in learn(model, again).losses} == set(range(STEPS))
    assert not list(user_folder.iterdir())


def test_a_stopped_run_goes_on_under_the_same_trajectory_though_the_run_left_its_mark(
    model: Any, control_net: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host keeps DDIM Invert's output, with what an interrupted run put into its ControlNet."""
    walked = inverted(model, control_net, hint())
    learn_one_step(model, walked, monkeypatch)
    walked.control_net.pre_run(model.model, lambda percent: 0.0)  # as the host starts any run
    assert len(list(user_folder.iterdir())) == 1
    learn(model, walked)
    assert not list(user_folder.iterdir())


def test_a_control_net_alone_needs_no_operation_looked_at(
    model: Any, control_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(foreign, "NormalTensors")
    assert learn(model, inverted(model, control_net, hint())).steps == STEPS


class Asked:
    """Counts how often the host's ControlNet computes, and keeps the frozen ones that ask it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.frozen = 0, []
        get, make = comfy.controlnet.ControlNet.get_control, control_nets.FrozenControlNet.__init__

        def counted(*args: Any) -> Any:
            self.count += 1
            return get(*args)

        def made(frozen: Any, *args: Any) -> None:
            make(frozen, *args)
            self.frozen.append(frozen)

        patch.setattr(comfy.controlnet.ControlNet, "get_control", counted)
        patch.setattr(control_nets.FrozenControlNet, "__init__", made)


@pytest.mark.parametrize(("kind", "fast", "times"), [
    ("ControlNet", True, 2), ("ControlLora", True, 2), ("ControlNet", False, 3)])
def test_a_step_asks_the_control_net_once_for_each_branch_and_learns_the_same(
    model: Any, kind: str, fast: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many evaluations it takes; the exact preset also sees the wanted maps, elsewhere."""
    way = inverted(model, KINDS[kind](), hint())
    counts: list[int] = []
    kept = host_learning.HostWatch.keep
    with monkeypatch.context() as patch:
        asked = Asked(patch)
        patch.setattr(host_learning.HostWatch, "keep", lambda self, learnt: (
            counts.append(asked.count), kept(self, learnt)))
        found = learn(model, way, fast)
    assert len(counts) == STEPS == 2 and counts[1] - counts[0] == times
    assert len([loss for loss in found.losses if loss.step == 1]) > 1
    (frozen,) = asked.frozen
    assert frozen.answer is None and frozen.sigmas is None, "nothing is held after the run"
    with monkeypatch.context() as patch:
        again = Asked(patch)
        get = control_nets.FrozenControlNet.get_control
        patch.setattr(control_nets.FrozenControlNet, "get_control", lambda self, *args: (
            self.forget(), get(self, *args))[1])
        wanted = learn(model, way, fast)
    assert again.count > asked.count
    assert torch.equal(found.scale, wanted.scale) and torch.equal(found.shift, wanted.shift)
    assert found.losses == wanted.losses


def test_a_run_that_breaks_off_holds_no_control(
    model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        assert asked.frozen[0].answer is not None
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(host_learning.HostWatch, "keep", stopping)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(model, trajectory)
    assert asked.frozen[0].answer is None


def test_a_run_that_breaks_off_leaves_no_weights_in_a_control_lora(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the UNet's own while it runs, and the host lets go of them after success only."""
    way = inverted(model, control_lora(), hint())

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        assert control_nets.control_net_of(way).control_model is not None
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(host_learning.HostWatch, "keep", stopping)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(model, way)
    assert control_nets.control_net_of(way).control_model is None
