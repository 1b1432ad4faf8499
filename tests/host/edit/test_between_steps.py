"""Any sampler of the host runs step by step where something is done between the steps."""

from dataclasses import replace
from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.method import prompt_to_prompt

from tests import golden
from tests.edits import BASE, control_of, embedding_of, replaced, trajectory_of

EVERYWHERE, NOWHERE = torch.ones(16, 24), torch.zeros(16, 24)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.load_unet()


def painted(model: Any, name: str, mask: torch.Tensor | None, exact: bool = False) -> torch.Tensor:
    """VP latents of source and target by a sampler, the edit kept to a mask."""
    made = control_of(replaced(), BASE)
    edits = replace(made, targets=(replace(made.targets[0], mask=mask),),
                    blend=replace(made.blend, start=0.0))
    with torch.inference_mode():
        trajectory = trajectory_of(model)
        parts = sampling.sampling_parts(
            Edit(model, trajectory, embedding_of(model), edits, 2.0, exact)
        )
        start = parts.latent["samples"]
        found: torch.Tensor = parts.guider.sample(
            torch.zeros_like(start), start, comfy.samplers.sampler_object(name), parts.sigmas,
            disable_pbar=True, seed=3)
        return found


@pytest.mark.parametrize("name", ["euler", "euler_cfg_pp", "heun", "dpm_2", "exp_heun_2_x0"])
def test_a_mask_of_everything_changes_nothing_for_samplers_of_single_steps(
    name: str, model: Any
) -> None:
    whole, kept = (painted(model, name, mask) for mask in (None, EVERYWHERE))
    assert golden.relative(kept, whole) < 1e-6


@pytest.mark.parametrize("name", ["euler", "dpm_2_ancestral", "dpmpp_2m", "lms"])
def test_a_mask_of_nothing_leaves_the_source_in_every_row(name: str, model: Any) -> None:
    source, edit = painted(model, name, NOWHERE)
    assert torch.equal(source, edit)
    source, edit = painted(model, name, EVERYWHERE)
    assert golden.relative(edit, source) > 1e-3


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_the_exact_source_comes_back_whatever_samples(name: str, model: Any) -> None:
    """The trajectory's latents are all NOISE here, so the source ends there in VP units."""
    found = painted(model, name, None, exact=True)
    with torch.inference_mode():
        clean = trajectory_of(model).latents[:1]
    assert golden.relative(model.model.process_latent_in(found[:1]), clean) < 1e-6


def test_every_step_of_a_sampler_that_adds_noise_draws_its_own(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    euler = comfy.samplers.sampler_object("euler")

    def noted(*args: Any, extra_args: Any, **more: Any) -> torch.Tensor:
        seeds.append(extra_args["seed"])
        found: torch.Tensor = euler.sampler_function(*args, extra_args=extra_args, **more)
        return found

    monkeypatch.setattr(
        comfy.samplers, "sampler_object", lambda name: comfy.samplers.KSAMPLER(noted))
    painted(model, "noted", EVERYWHERE)
    assert seeds == [3, 4, 5, 6]


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_a_sampler_that_cannot_stop_between_steps_is_refused_with_others_to_choose(
    name: str, model: Any
) -> None:
    with pytest.raises(ValueError, match="sampler sample_unipc.* cannot stop.*euler, heun"):
        painted(model, name, EVERYWHERE)
    assert torch.isfinite(painted(model, name, None)).all(), "nothing is done between its steps"


def test_targets_without_words_beside_one_that_is_blended_show_everywhere(model: Any) -> None:
    made = control_of(replaced(), BASE)
    hidden, free = replace(made.targets[0], mask=NOWHERE), made.targets[0]
    with torch.inference_mode():
        both, alone = (sampling.sample_edits(
            Edit(model, trajectory_of(model), embedding_of(model),
            replace(made, targets=targets, blend=replace(made.blend, start=0.0)), 2.0))["samples"]
            for targets in ((hidden, free), (free,)))
    assert torch.equal(both[1], both[0])
    assert golden.relative(both[2], alone[1]) < 1e-5


def test_windows_are_those_of_the_step_that_a_whole_sampler_is_at(model: Any) -> None:
    """A sampler that is not stopped tells its step by the callback alone."""
    made = control_of(replaced(), {**BASE, "tau_s": (0.0, 0.0), "tau_u": (0.0, 0.0)})
    never, once, always = (
        replace(made, tau_c=prompt_to_prompt.Window(0.0, end)) for end in (0.0, 0.2, 1.0))
    with torch.inference_mode():
        found = [sampling.sample_edits(
            Edit(model, trajectory_of(model), embedding_of(model), edits, 2.0))["samples"][1]
            for edits in (never, once, always)]
    assert golden.relative(found[1], found[0]) > 1e-4
    assert golden.relative(found[2], found[1]) > 1e-4
