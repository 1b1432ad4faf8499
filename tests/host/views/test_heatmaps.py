"""Heatmaps: words, steps, pictures, and every way they can be wrong."""

from typing import Any

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host.edit import portions
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.text_encoder import encode, tokenize
from stylediffusion_pack.stylediffusion.host.views import heatmaps
from stylediffusion_pack.stylediffusion.method import alignment, prompt_to_prompt
from stylediffusion_pack.stylediffusion.prompts.positions import positions_of

from tests import families

HALF = prompt_to_prompt.Window(0.0, 0.5)
PROMPT = "a Painting of a brown cat, in a (city:1.2)"


@pytest.fixture(scope="module")
def clip() -> Any:
    return loading.load_clip()


def test_no_words_means_every_word_once_as_it_was_typed(clip: Any) -> None:
    prompt = tokenize(clip, PROMPT)
    words, columns = heatmaps.chosen_columns(prompt, "")
    assert words == ["a", "Painting", "of", "brown", "cat", "in", "city"]
    assert columns[:, 0].nonzero().flatten().tolist() == list(positions_of("a", prompt))
    assert len(positions_of("a", prompt)) == 3
    assert (columns.sum(1) <= 1).all()


def test_words_are_shown_in_the_order_they_were_asked_for(clip: Any) -> None:
    prompt = tokenize(clip, PROMPT)
    words, columns = heatmaps.chosen_columns(prompt, "City, cat,CITY")
    assert words == ["City", "cat"]
    for i, word in enumerate(("city", "cat")):
        assert columns[:, i].nonzero().flatten().tolist() == list(positions_of(word, prompt))


def test_between_commas_several_words_are_one_phrase_and_else_each_is_its_own(clip: Any) -> None:
    prompt = tokenize(clip, "a painting of a brown cat's tail in the city")
    words, columns = heatmaps.chosen_columns(prompt, "brown cat, city")
    assert words == ["brown cat", "city"] and columns.sum(0).tolist() == [2, 1]
    assert heatmaps.chosen_columns(prompt, "brown city")[0] == ["brown", "city"]


def test_a_word_that_is_nearly_in_the_prompt_is_guessed(clip: Any) -> None:
    with pytest.raises(ValueError, match="'citty', .* did you mean 'city'; write it as"):
        heatmaps.chosen_columns(tokenize(clip, "a cat in the city"), "citty")


def test_a_word_that_is_not_in_the_prompt_is_named_beside_the_prompt(clip: Any) -> None:
    with pytest.raises(ValueError, match="'dog', written in words, is not a word of 'a Painting"):
        heatmaps.chosen_columns(tokenize(clip, PROMPT), "cat, dog")


@pytest.mark.parametrize(("written", "wanted"), [
    ("0-1", list(range(10))), ("0-0.3", [0, 1, 2]), ("0.7-1", [7, 8, 9]), ("0.25", [0, 1, 2]),
    ("0-0.01", [0]),
])
def test_a_window_of_steps_counts_from_the_noise(written: str, wanted: list[int]) -> None:
    assert heatmaps.chosen_steps(written, 10) == wanted


@pytest.mark.parametrize(("written", "message"), [
    ("0.5-0.5", "the window '0.5-0.5' of steps holds none of the trajectory's 10; widen it"),
    ("all", "the window 'all' of 'steps' is not of the form"),
    ("0.5-2", "must run from a smaller to a larger"),
])
def test_a_window_without_steps_is_an_error_that_quotes_it(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmaps.chosen_steps(written, 10)


def demo_trajectory(model: Any, clip: Any, height: int = 12, width: int = 18) -> Any:
    """Two steps of inversion of a latent whose left half differs from its right."""
    latent = torch.full((1, 4, height, width), 10.0)
    latent[..., : width // 2] = -10
    return inversion.invert_latent(model, clip, {"samples": latent}, "a red car", "", 2)


@pytest.fixture(scope="module")
def demo(clip: Any) -> tuple[Any, Any]:
    with torch.inference_mode():
        model = loading.load_model()
        return model, demo_trajectory(model, clip)


@pytest.mark.parametrize("size", [None, (96, 144), (101, 150), (480, 720)])
def test_a_sheet_and_masks_of_the_pictures_size_come_out(
    demo: Any, clip: Any, size: tuple[int, int] | None
) -> None:
    image = None if size is None else torch.rand(1, *size, 4)
    with torch.inference_mode():
        sheet, masks = heatmaps.heatmaps(
            Edit(*demo), clip, image, heatmaps.HeatRequest("car, red"))
    assert masks.shape == (2, *(size or (96, 144)))
    assert masks.amax((-2, -1)).tolist() == [1, 1] and masks.min() >= 0
    assert not torch.equal(masks[0], masks[1])
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[3] == 3


def test_without_a_picture_the_latent_is_seen_in_preview_colours_or_grey(demo: Any) -> None:
    model, trajectory = demo
    seen = heatmaps.background(model, trajectory)
    left, right = seen[:, :40].mean((0, 1)), seen[:, -40:].mean((0, 1))
    assert seen.shape == (96, 144, 3) and (left - right).abs().max() > 0.05
    colourless = families.load("sd15")
    colourless.model.latent_format.latent_rgb_factors = None
    assert heatmaps.background(colourless, trajectory).unique().tolist() == [0.5]


@pytest.mark.parametrize(("image", "message"), [
    ((3, 96, 144, 3), "the image holds 3 pictures.*ImageFromBatch"),
    ((1, 144, 96, 3), "the image is 96 x 144 pixels, but .* another shape, 18 x 12 cells"),
    ((1, 96, 160, 3), "the image is 160 x 96 pixels, but"),
])
def test_a_picture_that_was_not_inverted_is_an_error(
    demo: Any, clip: Any, image: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        heatmaps.heatmaps(Edit(*demo), clip, torch.zeros(image), heatmaps.HeatRequest())


def edits(clip: Any, trajectory: Any, *prompts: str) -> prompt_to_prompt.Control:
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    targets = tuple(prompt_to_prompt.Target(p, "replace", encode(clip, p), same) for p in prompts)
    return prompt_to_prompt.Control(trajectory.prompt, targets, HALF, HALF, HALF, HALF)


def test_a_target_is_asked_for_its_own_words(demo: Any, clip: Any) -> None:
    model, trajectory = demo
    made = edits(clip, trajectory, "a red boat", "a blue car")

    def masks(words: str, target: int) -> torch.Tensor:
        with torch.inference_mode():
            return heatmaps.heatmaps(Edit(model, trajectory, None, made), clip, None,
                                     heatmaps.HeatRequest(words, target))[1]

    assert len(masks("blue, car", 2)) == 2
    assert len(masks("", 1)) == 3
    with pytest.raises(ValueError, match="'blue', written in words, is not a word of 'a red boat'"):
        masks("blue", 1)
    with pytest.raises(ValueError, match="target is 3, but the number of targets .* is 2; set"):
        masks("", 3)


def test_a_targets_heat_is_its_own_however_many_targets_there_are_and_fit(
    demo: Any, clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trajectory = demo
    prompts = ("a red boat", "a blue car", "a red house")

    def masks(target: int, *written: str) -> torch.Tensor:
        edit = Edit(model, trajectory, None, edits(clip, trajectory, *written))
        with torch.inference_mode():
            return heatmaps.heatmaps(edit, clip, None, heatmaps.HeatRequest("", target))[1]

    monkeypatch.setattr(portions, "targets_at_once", lambda *_: 1)
    for place, prompt in enumerate(prompts, 1):
        assert torch.equal(masks(place, *prompts), masks(1, prompt))


@pytest.mark.parametrize("steps", ["0-1", "0.5-0.75"])
def test_steps_that_another_node_answers_for_are_not_counted_as_seen(
    demo: Any, clip: Any, steps: str
) -> None:
    """EasyCache runs the model in the first step and the last, and gives what it kept between."""
    model, _ = demo
    cached = EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0]
    with torch.inference_mode():
        trajectory = inversion.invert_latent(
            model, clip, {"samples": torch.ones(1, 4, 8, 8)}, "a red car", "", 8)
        with pytest.raises(ValueError, match="steps .* only . came by.*nodes_easycache.*connect"):
            heatmaps.heatmaps(
                Edit(cached, trajectory, None, edits(clip, trajectory, "a red boat")), clip, None,
                heatmaps.HeatRequest("", 1, steps))


def test_a_target_without_a_control_is_an_error(demo: Any, clip: Any) -> None:
    with pytest.raises(ValueError, match="target is 1, but no control is connected; connect"):
        heatmaps.heatmaps(Edit(*demo), clip, None, heatmaps.HeatRequest("", 1))
