"""Several pictures learnt in one batch on the host's UNet: as alone, in order, in portions."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.utils
import pytest
import torch
from stylediffusion_pack.nodes import learn as nodes
from stylediffusion_pack.stylediffusion.host.control_nets import ControlledTrajectory
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import memory, tasks
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import families, golden
from tests.learning_requests import request

STEPS, PICTURES = 4, 3
CHOSEN = {"first_evaluations": 3, "evaluations": 3, "closing_evaluations": 2, "closing_steps": 2,
          "last_evaluations": 2, "good_enough": 0.0}
GUIDANCE = 7.5
Interrupted = comfy.model_management.InterruptProcessingException


def inverted(
    model: Any, family: str = "sd15", pictures: int = PICTURES, size: tuple[int, int] = (16, 16),
    steps: int = STEPS,
) -> list[data.Trajectory]:
    """Pictures of different contrast under prompts of their own, in inference mode."""
    prompts, made = families.prompts(family, 2 * pictures), []
    levels = make_levels(steps, training_alphas(model))
    for k in range(pictures):
        cond, uncond = prompts[2 * k : 2 * k + 2]
        latent = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(40 + k))
        found = inversion.run_inversion(
            model, vp_to_host(model, (0.2 + 0.5 * k) * latent), cond, levels)
        assert found.latents is not None
        made.append(data.Trajectory(
            found.latents, levels, f"picture {k}", "", cond, uncond, found.layers,
            fingerprint(model)))
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.reloadable_unet()


@pytest.fixture(scope="module")
def ways(model: Any) -> list[data.Trajectory]:
    with torch.inference_mode():
        return inverted(model)


def together(
    model: Any, ways: list[data.Trajectory], fast: bool = True, **constants: Any
) -> list[data.ValueEmbedding]:
    chosen = request(fast, **{**CHOSEN, "inner_steps": 2, **constants})
    with torch.inference_mode():
        return host_learning.learn_embeddings(
            [tasks.LearningTask(model, way, chosen) for way in ways])


@pytest.fixture(scope="module")
def chosen(model: Any, ways: list[data.Trajectory]) -> dict[str, Any]:
    """Constants under which two of three pictures are good enough at once in the first step."""
    here, below = ways[0].levels.alphas_cumprod.tolist()[:-3:-1]
    unit = GUIDANCE * ((1 - below) ** 0.5 - (below * (1 - here) / here) ** 0.5)
    one = dict.fromkeys((name for name in CHOSEN if name.endswith("evaluations")), 1)
    first = [together(model, [way], **one)[0].losses[0].latent / unit**2 for way in ways]
    return {"good_enough": 1.001 * sorted(first)[1]}


@pytest.fixture(scope="module")
def alone(
    model: Any, ways: list[data.Trajectory], chosen: dict[str, Any]
) -> list[data.ValueEmbedding]:
    return [together(model, [way], **chosen)[0] for way in ways]


def assert_same(found: Any, wanted: Any, tolerance: float = 1e-3) -> None:
    assert found.prompt == wanted.prompt
    places = [[(x.step, x.inner) for x in one.losses] for one in (found, wanted)]
    assert places[0] == places[1]
    assert [x.latent for x in found.losses] == pytest.approx(
        [x.latent for x in wanted.losses], rel=tolerance)
    for name in ("scale", "shift"):
        assert golden.relative(getattr(found, name), getattr(wanted, name)) < tolerance


def counted(model: Any) -> tuple[Any, list[int]]:
    """The model, and the rows of every pass through it."""
    rows, seen = [], model.clone()

    def wrapper(apply_model: Any, asked: dict[str, Any]) -> Any:
        rows.append(len(asked["input"]))
        return apply_model(asked["input"], asked["timestep"], **asked["c"])

    seen.set_model_unet_function_wrapper(wrapper)
    return seen, rows


def test_each_is_learnt_as_alone_and_those_that_are_done_leave_the_batch(
    model: Any, ways: list[data.Trajectory], alone: list[data.ValueEmbedding],
    chosen: dict[str, Any],
) -> None:
    seen, rows = counted(model)
    found = together(seen, ways, **chosen)
    for one, other in zip(found, alone, strict=True):
        assert_same(one, other)
    taken = [[sum(x.step == step for x in one.losses) for one in alone] for step in range(STEPS)]
    assert any(len(set(step)) > 1 for step in taken), "all alike proves nothing"
    evaluations = rows[-sum(map(max, taken)) - STEPS :]
    assert evaluations.count(3) >= STEPS and sum(evaluations) == sum(map(sum, taken)) + 3 * STEPS


@pytest.mark.parametrize(("family", "dtype"), [
    ("sdxl", torch.float32), ("inpainting", torch.float32), ("sd15", torch.float16)], ids=str)
def test_every_family_and_half_precision_are_learnt_side_by_side(
    family: str, dtype: torch.dtype
) -> None:
    """A pooled prompt is a picture's own; fp16 is rounded otherwise in another batch.

    The second loss of the first step follows from the gradient of the first; further on, random
    weights magnify what is rounded otherwise.
    """
    with torch.inference_mode():
        model = families.load(family, dtype)
        ways = inverted(model, family, 2, (8, 8), steps=1)
    twice = {"first_evaluations": 2, "good_enough_closing": 0.0}
    found = together(model, ways, **twice)
    wanted = [together(model, [way], **twice)[0] for way in ways]
    losses = [[x.latent for one in several for x in one.losses] for several in (found, wanted)]
    assert losses[0] == pytest.approx(
        losses[1], rel=1e-3 if dtype == torch.float32 else 5e-2)
    assert len(losses[0]) == 4 and losses[0][0] != pytest.approx(losses[0][2], rel=0.1)


def test_as_many_are_learnt_together_as_fit(
    model: Any, ways: list[data.Trajectory], alone: list[data.ValueEmbedding],
    chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms: list[memory.MemoryPlan] = []
    plan = memory.plan_memory

    def little(patcher: Any, others: Any, estimate: memory.Estimate) -> memory.MemoryPlan:
        room = plan(patcher, others, estimate)
        rooms.append(replace(room, free=int(2.5 * estimate.needed[0])))
        return rooms[-1]

    monkeypatch.setattr(memory, "plan_memory", little)
    seen, rows = counted(model)
    found = together(seen, ways, **chosen)
    (room,) = rooms
    assert room.estimate.pictures == 3
    assert [len(places) for places in room.portions()] == [1, 2]
    assert max(rows) == 2
    for one, other in zip(found, alone, strict=True):
        assert_same(one, other)


def test_portions_cover_all_pictures_in_order() -> None:
    estimate = memory.Estimate((10, 5, 2), pictures=7)
    for free, sizes in ((9, [1] * 7), (39, [2, 2, 3]), (40, [3, 4]), (700, [7])):
        portions = memory.MemoryPlan(estimate, free, memory.Checkpoints.OFF).portions()
        assert [place for places in portions for place in places] == [*range(7)]
        assert sorted(map(len, portions)) == sizes


def test_stopped_pictures_go_on_each_from_its_own_file(
    model: Any, ways: list[data.Trajectory], alone: list[data.ValueEmbedding],
    chosen: dict[str, Any], user_folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One was stopped by itself after a step, all together after the second."""
    keep = host_learning.HostWatch.keep
    stop = {1: 1}

    def stopping(self: Any, learnt: Any) -> None:
        keep(self, learnt)
        if learnt.steps == stop.get(self.picture):
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep", stopping)
        stop = {0: 1}
        with pytest.raises(Interrupted):
            together(model, ways[1:2], **chosen)
        assert len([*user_folder.iterdir()]) == 1
        stop = {2: 2}
        with pytest.raises(Interrupted):
            together(model, ways, **chosen)
    assert len([*user_folder.iterdir()]) == 3
    steps: list[int] = []
    after = host_learning.HostWatch.after_inner
    monkeypatch.setattr(host_learning.HostWatch, "after_inner", lambda self, loss: (
        steps.append(loss.step), after(self, loss))[1])
    found = together(model, ways, **chosen)
    assert min(steps) == 2, "finished steps are not learnt again"
    for one, other in zip(found, alone, strict=True):
        assert_same(one, other)
    assert not [*user_folder.iterdir()]


def test_pictures_that_were_finished_before_a_list_was_stopped_are_not_learnt_again(
    model: Any, ways: list[data.Trajectory], user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as the exact preset does it."""
    keep = host_learning.HostWatch.keep

    def stopping(self: Any, learnt: Any) -> None:
        keep(self, learnt)
        if self.picture == 1 and learnt.steps == 1:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep", stopping)
        with pytest.raises(Interrupted):
            together(model, ways[:2], fast=False)
    seen: list[tuple[int, int]] = []
    after = host_learning.HostWatch.after_inner
    monkeypatch.setattr(host_learning.HostWatch, "after_inner", lambda self, loss: (
        seen.append((self.picture, loss.step)), after(self, loss))[1])
    found = together(model, ways[:2], fast=False)
    assert set(seen) == {(1, step) for step in range(1, STEPS)}
    assert [one.steps for one in found] == [STEPS, STEPS]
    assert not [*user_folder.iterdir()]


def test_one_bar_grows_over_all_pictures_and_ends_full(
    model: Any, ways: list[data.Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK",
        lambda value, total, preview=None, **_: told.append((value, total)))
    longer = replace(ways[2], positive=[(ways[2].positive[0][0].repeat(1, 2, 1), {})])
    together(model, [ways[0], longer, ways[1]])
    values = [value for value, _ in told]
    assert values == sorted(values) and values[-1] == told[-1][1] == 3 * (3 + 3 + 2 + 2)


def test_only_what_can_share_its_passes_is_grouped(
    model: Any, ways: list[data.Trajectory]
) -> None:
    way, fast = ways[0], request()
    longer = replace(way, positive=[(way.positive[0][0].repeat(1, 2, 1), {})])
    wider = replace(way, latents=way.latents.repeat(1, 1, 1, 2))
    under: Any = ControlledTrajectory(
        **vars(way), control_net=cast(Any, object()), control_identity="")
    other_levels = replace(way, levels=make_levels(STEPS, torch.linspace(
        0.99, 0.005, 1000, dtype=torch.float64)))

    def groups(*made: tuple[Any, Any]) -> list[list[int]]:
        return tasks.in_groups([tasks.LearningTask(model, *one) for one in made])

    assert groups((way, fast), (longer, fast), (ways[1], fast), (wider, fast)) == [[0, 2], [1], [3]]
    assert groups((under, fast), (under, fast)) == [[0], [1]]
    assert groups((way, request(False)), (way, request(False))) == [[0], [1]]
    guided = request(guidance=3.0)
    assert groups((way, fast), (way, guided), (other_levels, fast)) == [[0], [1], [2]]
    others = [tasks.LearningTask(one, way, fast) for one in (model, model.clone())]
    assert tasks.in_groups(others) == [[0], [1]]


def test_the_node_takes_lists_as_the_host_gives_them_and_keeps_their_order(
    model: Any, ways: list[data.Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a shorter list counts for the rest, as where the host maps a node over lists."""
    asked: list[tasks.LearningTask] = []

    def learnt(made: Any) -> Any:
        asked.extend(made)
        return [data.ValueEmbedding(
            torch.ones(1), torch.ones(1), guidance=task.request.settings.guidance,
            prompt=task.trajectory.prompt, fingerprint="",
            losses=(data.InnerLoss(0, 0, float(i), 0.0),)) for i, task in enumerate(made)]

    monkeypatch.setattr(nodes, "learn_embeddings", learnt)
    node = nodes.LearnValueEmbedding
    found = node.execute(
        model=[model], trajectory=ways, preset=["fast"], guidance=[3.0, 5.0], seed=[0],
        inner_steps=[100], learning_rate=[0.01], attention_weight=[1.0], form=["plain"])
    embeddings, losses = found.result
    assert [one.prompt for one in embeddings] == ["picture 0", "picture 1", "picture 2"]
    assert [one.guidance for one in embeddings] == [3.0, 5.0, 5.0]
    assert losses == [{"loss": [0.0]}, {"loss": [1.0]}, {"loss": [2.0]}]
    assert {task.request.form for task in asked} == {"plain"}
    assert node.INPUT_IS_LIST and node.OUTPUT_IS_LIST == [True, True]
