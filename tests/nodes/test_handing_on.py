"""What is set at a node arrives where it counts, under its own name."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest
from stylediffusion_pack.nodes import edit, invert, learn
from stylediffusion_pack.stylediffusion.host.edit.controller import WordOptions
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert.generation import PictureSettings
from stylediffusion_pack.stylediffusion.host.learn import tasks
from stylediffusion_pack.stylediffusion.host.learn.request import LearningRequest, prompt_request
from stylediffusion_pack.stylediffusion.method.adam import AdamSchedule
from stylediffusion_pack.stylediffusion.method.data import NULL_TEXT
from stylediffusion_pack.stylediffusion.method.learning import LearningSettings
from stylediffusion_pack.stylediffusion.method.local_blend import Blend
from stylediffusion_pack.stylediffusion.method.prompt_to_prompt import Window

Seen = list[tuple[tuple[Any, ...], dict[str, Any]]]


def caught(patch: pytest.MonkeyPatch, module: ModuleType, name: str, answer: Any) -> Seen:
    """The calls of a function that answers without doing anything."""
    seen: Seen = []
    patch.setattr(module, name, lambda *given, **named: (seen.append((given, named)), answer)[1])
    return seen


@pytest.fixture(autouse=True)
def open_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sentinel here is a MODEL, nor has the request anything to require of one."""
    monkeypatch.setattr(Edit, "__post_init__", lambda self: None)


def run(node: Any, *given: Any, **named: Any) -> Any:
    """A node's own execute, without the door before it that looks at kinds."""
    return inspect.unwrap(vars(node)["execute"].__func__)(node, *given, **named)


def test_the_controller_hands_on_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = caught(monkeypatch, edit, "make_control", None)
    run(edit.P2PlusController, "clip", "way", "a dog", "refine", 0.1, 0.2, 0.3, 0.4, 0.45, 0.15, 5,
        0.25, "mask", emphasis="e", windows="w", blend_words="b", subtract_words="s")
    ends = {"tau_v": 0.1, "tau_c": 0.2, "tau_s": 0.3, "tau_u": 0.4}
    windows = {name: Window(0.0, end) for name, end in ends.items()}
    assert seen == [(("clip", "way", "a dog", "refine", windows, WordOptions("e", "w", "b", "s"),
                      Blend(0.45, 0.15, 5, 0.25), "mask"), {})]


@pytest.mark.parametrize(("node", "name", "answer"), [
    (edit.Sample, "sample_with_masks", ({}, None)), (edit.P2PlusGuider, "sampling_parts", None)])
def test_sampling_hands_on_every_input(
    monkeypatch: pytest.MonkeyPatch, node: Any, name: str, answer: Any
) -> None:
    class Parts:
        noise = guider = sampler = sigmas = latent = None

    seen = caught(monkeypatch, edit, name, answer or Parts)
    run(node, "model", "way", 3.0, "embedding", "control", True)
    ((wish,), named), = seen
    assert named == {} and vars(wish) == {
        "model": "model", "trajectory": "way", "embedding": "embedding", "control": "control",
        "guidance": 3.0, "exact_source": True}


def test_inversion_hands_on_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    hints = caught(monkeypatch, invert, "with_hint", "held")
    ways = caught(monkeypatch, invert, "refinement", "refined")
    seen = caught(monkeypatch, invert, "invert_and_watch", ("way", None))
    run(invert.DDIMInvert, "model", "clip", {"samples": 1}, "a cat", 30, "a dog", "net", "image",
        0.7, "Anderson", 4)
    assert hints == [(("net", "image", 0.7), {})] and ways == [(("Anderson", 4), {})]
    assert seen == [(
        ("model", "clip", {"samples": 1}, "a cat", "a dog", 30, "held", "refined"), {})]


def test_generation_hands_on_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = caught(monkeypatch, invert, "generate", ("way", {}))
    run(invert.Generate, "model", "clip", "a cat", 512, 640, 30, 6.5, 9, "a dog")
    assert seen == [(("model", "clip", PictureSettings(
        prompt="a cat", negative_prompt="a dog", width=512, height=640, steps=30, guidance=6.5,
        seed=9)), {})]


def test_learning_a_prompt_hands_on_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = caught(monkeypatch, learn, "learn_prompt_embedding", "embedding")
    monkeypatch.setattr(learn, "loss_map", lambda embedding: None)
    run(learn.LearnPromptEmbedding, "model", "way", "text embedding", 3.0, 7, 0.02)
    assert seen == [(("model", "way", "text embedding", 3.0, 7, 0.02), {})]


def test_a_task_of_the_exact_preset_has_every_wish_of_the_node() -> None:
    made = tasks.value_task("model", "way", "exact", 3.0, 7, inner_steps=5, learning_rate=0.02,
                            attention_weight=0.5, form="plain", clip_vision="tower", image="image")
    assert (made.model, made.trajectory, made.clip_vision, made.image) == (
        "model", "way", "tower", "image")
    assert made.request == LearningRequest(
        LearningSettings(3.0, 0.5), AdamSchedule(inner_steps=5, learning_rate=0.02), "plain", 7)


def test_a_prompt_is_learnt_with_as_many_updates_at_every_step_and_the_released_constants() -> None:
    """Mokady et al.: rate 0.01 (1 - i / 100), a step ends below 1e-5 + i 2e-5."""
    made = prompt_request(NULL_TEXT, 3.0, 10, 0.05)
    assert isinstance(made.schedule, AdamSchedule)
    assert [made.schedule.inner_steps_at(i) for i in (0, 10, 29)] == [10, 10, 10]
    assert [made.schedule.learning_rate_at(i) for i in (0, 50)] == [0.05, 0.025]
    assert made.schedule.stop_loss_at(3) == pytest.approx(7e-5)
    assert made.settings == LearningSettings(3.0, 0.0) and made.form == "plain"
