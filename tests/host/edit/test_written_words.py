"""What people write beside prompts: where the host's tokenizer has it, and what is said of it."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host import text_encoder
from stylediffusion_pack.stylediffusion.host.edit import controller
from stylediffusion_pack.stylediffusion.method import data, local_blend, prompt_to_prompt, schedule
from stylediffusion_pack.stylediffusion.prompts.positions import positions_of

from tests import golden

TABLE = golden.facts("words")
SOURCE = "a painting of a brown cat"
ORANGE, BOAT = "a painting of an orange cat", "a painting of a brown boat"
WINDOWS = {name: prompt_to_prompt.Window(0.0, 0.5) for name in prompt_to_prompt.TAUS}


@pytest.fixture(scope="module")
def clip() -> Any:
    return loading.load_clip()


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="stylediffusion")


def trajectory(
    prompt: str = SOURCE, positive: data.Conditioning | None = None
) -> data.Trajectory:
    levels = schedule.make_levels(4, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    return data.Trajectory(
        torch.zeros(5, 4, 16, 16), levels, prompt, "", positive or [], [], (), "0" * 16)


def wished(
    clip: Any, targets: str, source: str = SOURCE, **wishes: str
) -> prompt_to_prompt.Control:
    return controller.make_control(
        clip, trajectory(source), targets, "auto", WINDOWS, controller.WordOptions(**wishes))


def tokens(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


@pytest.mark.parametrize(("prompt", "expected"), TABLE["words"])
def test_words_stand_between_spaces_without_weights(
    clip: Any, prompt: str, expected: list[str]
) -> None:
    assert [word.text for word in text_encoder.tokenize(clip, prompt).words] == expected


@pytest.mark.parametrize(("prompt", "asked", "expected"), TABLE["positions"])
def test_a_word_is_found_where_its_characters_are(
    clip: Any, prompt: str, asked: str, expected: list[int]
) -> None:
    assert list(positions_of(asked, text_encoder.tokenize(clip, prompt))) == expected


def test_a_phrase_is_emphasised_and_windowed_as_one(clip: Any) -> None:
    (made,) = wished(clip, "a red car and a red house", "a blue car and a red house",
                     emphasis="red car: 1,5", windows="Tau_S: 0.3, red car: 0.1–0.4").targets
    assert made.emphasis is not None and tokens(made.emphasis == 1.5) == [2, 3]
    assert made.word_windows == (
        prompt_to_prompt.WordWindow((2, 3), prompt_to_prompt.Window(0.1, 0.4)),
    )
    assert made.windows == {"tau_s": prompt_to_prompt.Window(0.0, 0.3)}


def test_a_blend_phrase_is_where_it_stands_and_else_its_words(clip: Any) -> None:
    (made,) = wished(clip, "a blue car and a red house", "a red car and a red house",
                     blend_words="red car, house").targets
    assert made.blend is not None
    assert (tokens(made.blend.source), tokens(made.blend.target)) == ([2, 3, 7], [3, 6, 7])


def test_words_apart_by_spaces_are_blended_as_if_by_commas(clip: Any) -> None:
    (made,) = wished(clip, BOAT, blend_words="cat boat").targets
    assert made.blend is not None
    assert (tokens(made.blend.source), tokens(made.blend.target)) == ([6], [6])


def test_an_error_names_the_nearest_word_and_all_there_are(clip: Any) -> None:
    with pytest.raises(ValueError) as caught:
        wished(clip, "a tiger in the forest", emphasis="tigre: 2")
    assert str(caught.value) == (
        "'tigre', written in emphasis, is not in 'a tiger in the forest'; did you mean 'tiger'? "
        "Its words are: a, tiger, in, the, forest; write one of them, or take 'tigre' out of "
        "emphasis")
    with pytest.raises(ValueError, match=r"is not in 'a .*cat', 'a .*boat'\. Their words are: a, "):
        wished(clip, BOAT, blend_words="zebra")


@pytest.mark.parametrize("what", ["blend_words", "subtract_words"])
def test_a_word_that_one_targets_list_need_not_have_is_a_warning(
    clip: Any, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    made = wished(clip, f"{ORANGE}\n{ORANGE}", **{"blend_words": "a", what: "cat; cat, boat"})
    for target in made.targets:
        mask = target.blend if what == "blend_words" else target.subtract
        assert mask is not None and tokens(mask.target) == [6]
    (said,) = caplog.messages
    assert f"'boat', written in {what}, is not in '{SOURCE}', '{ORANGE}'" in said


def test_a_word_that_a_list_for_all_need_not_have_is_a_warning(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The demo graph, once its second line is about a cat again."""
    made = wished(clip, f"{ORANGE}\n{ORANGE}", blend_words="cat, boat")
    assert made.word_targets == [0, 1]
    (said,) = caplog.messages
    assert "'boat', written in blend_words, is not in" in said


@pytest.mark.parametrize("lines", [f"{BOAT}\n{ORANGE}", f"{ORANGE}\n{BOAT}\n{ORANGE}"])
def test_an_edit_that_a_list_for_all_has_no_word_for_is_as_without_the_list_and_that_is_said(
    clip: Any, caplog: pytest.LogCaptureFixture, lines: str
) -> None:
    """Kept to where nothing looks it would be the source, as if there were no edit."""
    made = wished(clip, lines, blend_words="boat")
    prompts = lines.split("\n")
    assert made.word_targets == [prompts.index(BOAT)]
    lacking = [line for line in prompts if line == ORANGE]
    assert len(caplog.messages) == len(lacking)
    for said in caplog.messages:
        assert f"no word of 'boat', written in blend_words, is in '{SOURCE}' or '{ORANGE}'" in said


def test_subtract_words_without_blend_words_or_a_mask_are_an_error(clip: Any) -> None:
    with pytest.raises(ValueError, match="subtract_words is 'cat', but blend_words is empty"):
        wished(clip, ORANGE, subtract_words="cat")


@pytest.mark.parametrize("written", ["cat; boat", "boat", "boat, ship"])
def test_a_list_without_any_word_found_is_an_error(clip: Any, written: str) -> None:
    with pytest.raises(ValueError, match="'boat', written in blend_words, is not in"):
        wished(clip, f"{ORANGE}\n{ORANGE}", blend_words=written)


def test_a_word_of_another_line_or_of_the_source_is_no_error(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wished(clip, f"{ORANGE}\n{BOAT}", blend_words="boat, brown", emphasis="boat: 2")
    assert not caplog.messages


@pytest.mark.parametrize("target", ["A painting of a BROWN cat", "a painting, of a brown “cat”."])
def test_a_target_that_differs_in_case_or_signs_only_is_said(
    clip: Any, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    wished(clip, target)
    assert f"'{target}', is the source prompt but for case or punctuation" in caplog.text


def test_spaces_alone_leave_the_source_prompt_itself(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wished(clip, "a painting  of a\tcat", source="a painting of\na cat ")
    assert "is the source prompt itself" in caplog.text


@pytest.mark.parametrize("target", ["a painting of a (brown:1.4) cat", "a painting of a brown dog"])
def test_a_weight_or_a_word_is_a_change(
    clip: Any, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    wished(clip, target)
    assert not caplog.messages


def test_list_markers_and_a_pasted_prompt_are_read_as_meant_and_said(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = wished(clip, f"1. {ORANGE}\n2. {BOAT}")
    assert [target.prompt for target in made.targets] == [ORANGE, BOAT]
    made = wished(clip, "a blue car,\nin a meadow", "a red car,\nin a meadow")
    assert [target.prompt for target in made.targets] == ["a blue car, in a meadow"]
    assert ["list markers" in said or "as one prompt" in said for said in caplog.messages] == [
        True, True]


@pytest.mark.parametrize("weight", ["nan", "inf", "-1e999"])
def test_a_weight_that_is_no_number_is_named(clip: Any, weight: str) -> None:
    with pytest.raises(ValueError, match=f"the weight of 'cat' in .* is {float(weight)}; write"):
        text_encoder.encode(clip, f"a (cat:{weight})")
    with pytest.raises(ValueError, match="the weight of 'cat'"):
        wished(clip, f"a (cat:{weight})")


@pytest.mark.parametrize("name", prompt_to_prompt.TAUS)
def test_a_window_that_is_no_number_is_named(clip: Any, name: str) -> None:
    windows = {**WINDOWS, name: prompt_to_prompt.Window(0.0, float("nan"))}
    with pytest.raises(ValueError, match=f"{name} is nan"):
        controller.make_control(clip, trajectory(), BOAT, "auto", windows)


@pytest.mark.parametrize("name", ["threshold", "start", "softness"])
def test_a_blend_that_is_no_number_is_named(clip: Any, name: str) -> None:
    broken = replace(local_blend.Blend(), **{name: float("nan")})
    with pytest.raises(ValueError, match=f"blend_{name} is nan"):
        controller.make_control(clip, trajectory(), BOAT, "auto", WINDOWS, blend=broken)


def inverted(clip: Any, change: Any = lambda cond: cond, **pooled: Any) -> data.Trajectory:
    """A trajectory of SOURCE by a text encoder whose vectors are changed."""
    ((cond, extra),) = text_encoder.encode(clip, SOURCE)
    return trajectory(positive=[(change(cond), {**extra, **pooled})])


def controlled(clip: Any, made: data.Trajectory) -> None:
    controller.make_control(clip, made, BOAT, "auto", WINDOWS)


def test_an_encoder_of_another_width_is_an_error_that_names_both(clip: Any) -> None:
    ((cond, extra),) = text_encoder.encode(clip, SOURCE)
    with pytest.raises(ValueError, match=r"gives 128 numbers for each token, .* gave 192; connect"):
        controlled(clip, inverted(clip, lambda cond: torch.nn.functional.pad(cond, (0, 64))))
    with pytest.raises(ValueError, match="pooled numbers, .* gave no; connect"):
        controlled(clip, inverted(clip, pooled_output=None))
    width = extra["pooled_output"].shape[-1]
    with pytest.raises(ValueError, match=f"gives {width} pooled numbers, .* gave 7;"):
        controlled(clip, inverted(clip, pooled_output=torch.zeros(1, 7)))


@pytest.mark.parametrize(("share", "heard"), [(0.0, False), (0.0005, False), (0.005, True)])
def test_another_encoder_than_the_trajectorys_is_a_warning_and_rounding_is_none(
    clip: Any, caplog: pytest.LogCaptureFixture, share: float, heard: bool
) -> None:
    controlled(clip, inverted(clip, lambda cond: cond * (1 + share)))
    found = [said for said in caplog.messages if "connect the same CLIP here" in said]
    assert bool(found) == heard
