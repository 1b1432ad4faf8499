"""Runs that are interrupted or fail in the middle leave the model and the host as they were."""

import gc
from typing import Any

import comfy.model_management
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import patches, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import learner
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data, edit_plan
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import families, golden
from tests.edits import BASE, EDITS, control_of, embedding_of, trajectory_of
from tests.learning_requests import request

Interrupted = comfy.model_management.InterruptProcessingException


def alive(*kinds: type) -> list[str]:
    """What other tests keep is there before and after, so compare."""
    gc.collect()
    return sorted(type(found).__name__ for found in gc.get_objects() if type(found) in kinds)


def in_graphs() -> int:
    gc.collect()
    return sum(type(t) is torch.Tensor and t.requires_grad for t in gc.get_objects())


def interrupt(*_: Any) -> None:
    """What the host does when the person presses Cancel."""
    comfy.model_management.interrupt_current_processing()


def fail(*_: Any) -> None:
    raise RuntimeError("a callback failed")


class Passes(list[str]):
    """Notes every call of the model, and does something at the one before `at`."""

    def __init__(self, model: Any, patch: pytest.MonkeyPatch, at: int, then: Any) -> None:
        super().__init__()
        apply_model = type(model.model).apply_model

        def counted(inner: Any, *arguments: Any, **options: Any) -> Any:
            self.append("begun")
            if len(self) == at:
                then()
            found = apply_model(inner, *arguments, **options)
            self.append("ended")
            return found

        patch.setattr(type(model.model), "apply_model", counted)


@pytest.fixture(autouse=True)
def no_interrupt_is_left() -> Any:
    yield
    comfy.model_management.interrupt_current_processing(False)


def sampled(model: Any, name: str) -> torch.Tensor:
    with torch.inference_mode():
        return sampling.sample_edits(
            Edit(
                model, trajectory_of(model), embedding_of(model), control_of(EDITS[name], BASE), 7.5
            ),
        )["samples"]


def broken_off(parts: sampling.SamplingParts, then: Any, error: type[BaseException]) -> None:
    def callback(step: int, *_: Any) -> None:
        if step == 1:
            then()

    with torch.inference_mode(), pytest.raises(error):
        parts.guider.sample(
            parts.noise.generate_noise(parts.latent), parts.latent["samples"], parts.sampler,
            parts.sigmas, callback=callback, disable_pbar=True, seed=0)


@pytest.mark.parametrize(("then", "error"), [(interrupt, Interrupted), (fail, RuntimeError)],
                         ids=["interrupt", "failure"])
@pytest.mark.parametrize("name", EDITS)
def test_a_sampling_run_that_breaks_off_leaves_nothing_on_model_and_guider(
    name: str, then: Any, error: type[BaseException]
) -> None:
    others = alive(patches.EditRun, edit_plan.EditPlan)
    with torch.inference_mode():
        model = golden.load_unet()
        before, options = sampled(model, name), repr(model.model_options)
        assert alive(patches.EditRun, edit_plan.EditPlan) == others, "a finished run is gone"
        parts = sampling.sampling_parts(
            Edit(
                model, trajectory_of(model), embedding_of(model), control_of(EDITS[name], BASE), 7.5
            )
        )
    own = repr(parts.guider.model_options)
    broken_off(parts, then, error)
    assert alive(patches.EditRun, edit_plan.EditPlan) == others, "the guider may be cached"
    assert repr(parts.guider.model_options) == own and repr(model.model_options) == options
    assert not model.patches and not model.object_patches
    assert torch.equal(sampled(model, name), before)


def trajectory(model: Any) -> data.Trajectory:
    cond, uncond = families.prompts("sd15", 2)
    levels = make_levels(2, training_alphas(model))
    latent = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(8))
    found = inversion.run_inversion(model, vp_to_host(model, latent), cond, levels)
    assert found.latents is not None
    return data.Trajectory(
        found.latents, levels, "", "", cond, uncond, found.layers, fingerprint(model))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("then", "error"), [(interrupt, Interrupted), (fail, RuntimeError)],
                         ids=["interrupt", "failure"])
def test_learning_that_breaks_off_ends_within_the_pass_and_leaves_nothing(
    fast: bool, then: Any, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = learner.Learner, learner.HostLearningModel
    others, tensors = alive(*kinds), in_graphs()
    with torch.inference_mode():
        model = golden.reloadable_unet()
        way, before, options = trajectory(model), sampled(model, "blend"), repr(model.model_options)
        asked = [p.requires_grad for p in model.model.parameters()]
        with monkeypatch.context() as patch:
            passes = Passes(model, patch, at=15, then=then)
            break_learning_off(model, way, fast, error)
    assert passes[:14] == ["begun", "ended"] * 7
    assert len(passes) <= 16, "no pass begins after the one in which it was asked for"
    assert alive(*kinds) == others and in_graphs() == tensors
    assert repr(model.model_options) == options
    assert all(p.grad is None for p in model.model.parameters())
    assert [p.requires_grad for p in model.model.parameters()] == asked
    assert torch.equal(sampled(model, "blend"), before)


def break_learning_off(
    model: Any, way: data.Trajectory, fast: bool, error: type[BaseException]
) -> None:
    chosen = request(fast, inner_steps=20, evaluations=20, first_evaluations=20)
    with pytest.raises(error):
        host_learning.learn_value_embedding(model, way, None, None, chosen)


def test_an_inversion_that_breaks_off_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        before, options = sampled(model, "replace"), repr(model.model_options)
        with monkeypatch.context() as patch:
            passes = Passes(model, patch, at=3, then=interrupt)
            with pytest.raises(Interrupted):
                trajectory(model)
    assert len(passes) <= 4
    assert repr(model.model_options) == options
    assert torch.equal(sampled(model, "replace"), before)
