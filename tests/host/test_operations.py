"""What an edited step launches and reads beside a plain one: on a GPU its time follows these."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host import text_encoder
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn.tasks import LearningTask
from stylediffusion_pack.stylediffusion.method import prompt_to_prompt

from bench.operations import Count, Operations, by_step
from tests import golden
from tests.edits import EDITS, GUIDANCE, NOISE, control_of, embedding_of, trajectory_through
from tests.edits import context as prompt
from tests.learning_requests import request

STEPS, LEARNT = 10, 4
SMALL = NOISE[..., :8, :16]  # counts do not depend on the size
WINDOWS = {tau: (0.0, 0.5) for tau in ("tau_v", "tau_c", "tau_s", "tau_u")}
INSIDE, PAST = slice(0, 4), slice(6, 9)
LIMITS = {"replace": 1.08, "blend": 1.15, "refine": 1.25}


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.load_unet()


@pytest.fixture(scope="module")
def trajectory(model: Any) -> Any:
    with torch.inference_mode():
        return trajectory_through(
            model, prompt(1), prompt(2), SMALL.expand(STEPS + 1, -1, -1, -1))


def plain_steps(model: Any, trajectory: Any, edits: prompt_to_prompt.Control) -> list[Count]:
    """The host alone on the same batch."""
    rows = 1 + len(edits.targets)
    own = comfy.samplers.CFGGuider(model)
    own.set_conds(text_encoder.stacked(
        [trajectory.positive, *(target.conditioning for target in edits.targets)]),
        trajectory.negative)
    own.set_cfg(GUIDANCE)
    noise = torch.randn(rows, *SMALL.shape[1:])
    return by_step(lambda callback: own.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"),
        trajectory.levels.sampling_sigmas(), callback=callback, disable_pbar=True))


def edited_steps(model: Any, trajectory: Any, edits: prompt_to_prompt.Control, exact: bool = False
                 ) -> list[Count]:
    embedding = replace(
        embedding_of(model), scale=torch.ones(STEPS, 77, 64), shift=torch.zeros(STEPS, 77, 64))
    parts = sampling.sampling_parts(Edit(model, trajectory, embedding, edits, GUIDANCE, exact))
    start = parts.latent["samples"]
    return by_step(lambda callback: parts.guider.sample(
        torch.zeros_like(start), start, parts.sampler, parts.sigmas, callback=callback,
        disable_pbar=True, seed=0))


def several(name: str, count: int = 3) -> prompt_to_prompt.Control:
    """Targets whose windows end one after the other."""
    made = control_of(EDITS[name], WINDOWS)
    ends = [prompt_to_prompt.Window(0.0, 0.5 - 0.1 * i) for i in range(count)]
    return replace(made, targets=tuple(
        replace(made.targets[0], windows=dict.fromkeys(("tau_c", "tau_s"), end)) for end in ends))


def ratios(edited: list[Count], plain: list[Count]) -> list[float]:
    return [one.operations / other.operations for one, other in zip(edited, plain, strict=True)]


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("make", [lambda name: control_of(EDITS[name], WINDOWS), several],
                         ids=["one target", "three targets with windows of their own"])
def test_an_edited_step_launches_hardly_more_than_a_plain_one(
    name: str, make: Callable[[str], prompt_to_prompt.Control], model: Any, trajectory: Any
) -> None:
    with torch.inference_mode():
        edits = make(name)
        plain = plain_steps(model, trajectory, edits)
        found = edited_steps(model, trajectory, edits)
    assert plain[0].operations > 500, "the count must see the UNet"
    seen = ratios(found, plain)
    assert max(seen[INSIDE]) <= LIMITS[name], seen
    past = LIMITS[name] if name == "blend" else 1.02
    assert max(seen[PAST]) <= past, seen
    assert [step.reads for step in found] == [step.reads for step in plain], "no read of our own"


def test_setting_the_source_right_after_each_step_reads_nothing_either(
    model: Any, trajectory: Any
) -> None:
    with torch.inference_mode():
        edits = control_of(EDITS["replace"], WINDOWS)
        plain = plain_steps(model, trajectory, edits)
        found = edited_steps(model, trajectory, edits, exact=True)
    assert max(ratios(found, plain)) <= LIMITS["replace"] + 0.01
    assert [step.reads for step in found] == [step.reads for step in plain]


def an_evaluation(model: Any, pictures: int) -> Count:
    """Of one picture of so many, all set-up shared out; every step takes all it may."""
    ways = [trajectory_through(model, prompt(1), prompt(2),
                               (1 - 0.1 * k) * SMALL.expand(LEARNT + 1, -1, -1, -1))
            for k in range(pictures)]
    chosen = request(first_evaluations=3, evaluations=3, closing_evaluations=3, last_evaluations=3,
                     good_enough=0.0, good_enough_closing=0.0)
    with Operations() as seen:
        found = host_learning.learn_embeddings([LearningTask(model, way, chosen) for way in ways])
    assert {len(one.losses) for one in found} == {3 * LEARNT}
    return seen.count / (3 * LEARNT * pictures)


def test_four_pictures_learnt_together_launch_a_third_each_of_what_one_does_alone(
    model: Any
) -> None:
    with torch.inference_mode():
        alone, each = (an_evaluation(model, pictures) for pictures in (1, 4))
    assert alone.operations > 1000, "the count must see the UNet, forward and backward"
    assert each.operations <= 0.36 * alone.operations, (each, alone)
    assert each.reads <= 0.5 * alone.reads and alone.reads <= 3, (each, alone)
