"""CLIPScore and its direction with embeddings written by hand, and CLIP's own preparation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.measures import text_agreement
from torch import Tensor

WORDS = {"a cat": (1.0, 0.0, 0.0), "a dog": (0.0, 2.0, 0.0), "no cat": (-1.0, 0.0, 0.0)}


def texts(prompts: Sequence[str]) -> Tensor:
    return torch.tensor([WORDS[prompt] for prompt in prompts])


def images(pictures: Tensor) -> Tensor:
    """The mean colour."""
    return pictures.double().mean((1, 2))


def picture(*colour: float) -> Tensor:
    return torch.tensor(colour, dtype=torch.float64).expand(1, 4, 4, 3).clone()


def test_a_score_is_a_hundred_times_the_cosine_and_never_negative() -> None:
    both = torch.cat([picture(0.3, 0.4, 0.0), picture(0.0, 0.5, 0.0)])
    assert text_agreement.clip_score(images, texts, both, ["a cat"]) == pytest.approx([60.0, 0.0])
    assert text_agreement.clip_score(images, texts, both, ["a cat", "a dog"]) == pytest.approx(
        [60.0, 100.0])
    assert text_agreement.clip_score(images, texts, both[:1], ["no cat"]) == [0.0]
    assert text_agreement.clip_score(images, texts, both[:1], ["a cat", "a dog"]) == pytest.approx(
        [60.0, 80.0])


def test_the_edited_region_is_seen_alone_in_whole_bytes() -> None:
    mask, half = torch.zeros(1, 4, 4), picture(0.3, 0.4, 0.0)
    mask[:, :2] = 1
    half[:, 2:] = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    red, green = round(0.3 * 255), round(0.4 * 255)
    wanted = 100 * red / (red**2 + green**2) ** 0.5
    assert text_agreement.clip_score(images, texts, half, ["a cat"], mask) == pytest.approx(
        [wanted], rel=1e-6)
    for empty in (mask * 0, mask * 0 + 1):
        assert text_agreement.clip_score(images, texts, half, ["a cat"], empty) == [None]


def test_a_direction_is_the_cosine_of_two_differences() -> None:
    """Of colours from red to green and to half of both, against (1, 0, 0) to (0, 1, 0)."""
    red, green, other = picture(0.9, 0.0, 0.0), picture(0.0, 0.7, 0.0), picture(0.3, 0.4, 0.0)
    found = text_agreement.directional_similarity(
        images, texts, red, torch.cat([green, other, red]), ["a cat"], ["a dog"])
    moved = torch.tensor([0.6 - 1.0, 0.8, 0.0])
    wanted = float((0.4 + 0.8) / (moved.norm() * 2**0.5))
    assert found[:2] == pytest.approx([1.0, wanted])
    assert found[2] is None, "a picture that has not moved has no direction"
    assert text_agreement.directional_similarity(
        images, texts, red, green, ["a cat"], ["a cat"]) == [None]


def test_prompts_and_pictures_that_differ_by_a_towers_rounding_are_the_same() -> None:
    """A tower gives a row of a batch in other last bits than the row alone."""
    def rounded(embed: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        return lambda rows: embed(rows).double() * (1 + 1e-7 * len(rows) * torch.arange(3))

    red, green = picture(0.9, 0.1, 0.0), picture(0.1, 0.7, 0.0)
    assert text_agreement.directional_similarity(
        images, rounded(texts), red, torch.cat([green, green]), ["a cat"], ["a cat", "a cat"]
    ) == [None, None]
    assert text_agreement.directional_similarity(
        rounded(images), texts, red, torch.cat([red, green]), ["a cat"], ["a dog"])[0] is None


@pytest.mark.parametrize("size", [(224, 224), (300, 260), (97, 150)])
def test_pictures_are_prepared_as_clips_own_processor_does(size: tuple[int, int]) -> None:
    """Through Pillow's bicubic, which rounds between its passes: one level of 255 apart."""
    from transformers import CLIPImageProcessor

    drawn = torch.rand(1, 9, 9, 3, generator=torch.Generator().manual_seed(1)).movedim(-1, 1)
    smooth = torch.nn.functional.interpolate(drawn, size, mode="bicubic").clamp(0, 1)
    levels = (smooth * 255).round().byte()
    wanted = CLIPImageProcessor()(levels[0], return_tensors="pt")["pixel_values"]
    found = text_agreement.clip_pixels(levels.movedim(1, -1) / 255)
    level = 1 / 255 / 0.26
    assert found.shape == wanted.shape == (1, 3, 224, 224)
    assert float((found - wanted).abs().max()) < 1.5 * level
    assert float((found - wanted).abs().mean()) < 0.3 * level
