"""Edits laid into a photo: distances, places and sizes written out, the photo's pixels kept."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stylediffusion_pack.stylediffusion.drawing import compositing
from torch import Tensor


def square(height: int, width: int, box: tuple[int, int, int, int]) -> Tensor:
    """A mask that is 1 in rows box[0]..box[1], columns box[2]..box[3], without the last."""
    mask = torch.zeros(height, width)
    mask[box[0] : box[1], box[2] : box[3]] = 1
    return mask


def distance(height: int, width: int, box: tuple[int, int, int, int]) -> Tensor:
    """The steps, diagonal ones too, from every pixel to a square; 0 inside."""
    found = torch.empty(height, width)
    for y in range(height):
        for x in range(width):
            down = max(box[0] - y, y - (box[1] - 1), 0)
            across = max(box[2] - x, x - (box[3] - 1), 0)
            found[y, x] = max(down, across)
    return found


def photo_of(height: int, width: int) -> Tensor:
    """Blots of several sizes, as whole levels of a picture file."""
    generator = torch.Generator().manual_seed(height * width)
    total = torch.zeros(3, height, width)
    for share, side in ((0.5, 40), (0.3, 12), (0.2, 4)):
        few = torch.rand(1, 3, height // side + 2, width // side + 2, generator=generator)
        grown = torch.nn.functional.interpolate(few, (height, width), mode="bilinear")
        total += share * grown[0]
    return (total.movedim(0, -1) * 255).round() / 255


def encoded(photo: Tensor, size: tuple[int, int], how: Any = Image.Resampling.LANCZOS) -> Tensor:
    """A photo scaled by Pillow, cut to cells of 8 as the host's VAE cuts it: half the rest first.

    comfy/sd.py: x_offset = (dims[d] % downscale_ratio) // 2.
    """
    image = Image.fromarray((photo * 255).round().byte().numpy())
    if size != (photo.shape[0], photo.shape[1]):
        image = image.resize((size[1], size[0]), how)
    top, left = (side % 8 // 2 for side in size)
    rows, columns = (side // 8 * 8 for side in size)
    small = torch.from_numpy(np.asarray(image).copy()).float() / 255
    return small[top : top + rows, left : left + columns]


@pytest.mark.parametrize("feather", [0, 1, 2, 5, 9])
def test_a_feather_falls_evenly_outside_the_region_and_is_one_inside(feather: int) -> None:
    box = (8, 12, 10, 15)
    away = distance(24, 28, box)
    wanted = ((feather + 1 - away) / (feather + 1)).clamp(min=0)
    found = compositing.feathered(square(24, 28, box) > 0, feather)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert torch.equal(found == 1, away == 0)
    assert torch.equal(found == 0, away > feather)


def test_a_feather_takes_the_nearest_of_several_regions() -> None:
    first, second = (3, 5, 3, 5), (3, 9, 14, 16)
    region = (square(12, 20, first) + square(12, 20, second)) > 0
    away = torch.minimum(distance(12, 20, first), distance(12, 20, second))
    wanted = ((5 - away) / 5).clamp(min=0)
    torch.testing.assert_close(compositing.feathered(region, 4), wanted, rtol=0, atol=1e-6)


def test_feathering_leaves_the_region_it_was_given() -> None:
    region = square(6, 6, (2, 4, 2, 4)) > 0
    before = region.clone()
    compositing.feathered(region, 3)
    assert torch.equal(region, before)


def test_where_the_weight_is_zero_the_photos_own_bits_stand() -> None:
    photo = torch.tensor([0.1, 0.2, -0.0, 0.7]).view(1, 4, 1).expand(1, 4, 3)
    edit = torch.tensor([0.5, 0.6, float("nan"), float("inf")]).view(1, 4, 1).expand(1, 4, 3)
    weight = torch.tensor([[1.0, 0.25, 0.0, 0.0]])
    found = compositing.composed(photo, edit, weight)[0, :, 0]
    assert found[:2].tolist() == pytest.approx([0.5, 0.2 + 0.25 * 0.4])
    assert torch.equal(found[2:].view(torch.int32), photo[0, 2:, 0].contiguous().view(torch.int32))


def test_at_the_photos_size_edit_border_and_photo_are_where_the_mask_says() -> None:
    photo, edits = photo_of(32, 40), torch.stack([torch.full((32, 40, 3), v) for v in (0.0, 1.0)])
    boxes = [(8, 16, 8, 24), (20, 28, 4, 12)]
    mask = torch.stack([square(32, 40, box) for box in boxes])
    found = compositing.keep_pixels(photo[None], edits, mask, 3)
    assert found.images.shape == (2, 32, 40, 3) and found.difference == 0
    for image, edit, box, share in zip(found.images, edits, boxes, found.shares, strict=True):
        away = distance(32, 40, box)
        weight = ((4 - away) / 4).clamp(min=0)[..., None]
        torch.testing.assert_close(image, photo + weight * (edit - photo))
        assert torch.equal(image[away > 3], photo[away > 3])
        assert torch.equal(image[away == 0], edit[away == 0])
        assert share == pytest.approx(float((away > 3).float().mean()))


def test_with_one_picture_more_than_masks_the_first_becomes_the_photo() -> None:
    photo, edits = photo_of(16, 16), torch.rand(3, 16, 16, 3)
    mask = torch.stack([square(16, 16, (0, 4, 0, 4)), square(16, 16, (8, 16, 8, 16))])
    found = compositing.keep_pixels(photo[None], edits, mask, 0)
    assert torch.equal(found.images[0], photo) and found.shares[0] == 1
    assert torch.equal(found.images[1, :4, :4], edits[1, :4, :4])
    assert torch.equal(found.images[2, 8:, 8:], edits[2, 8:, 8:])
    assert torch.equal(found.images[2, :8], photo[:8])


@pytest.mark.parametrize("height, width", [(37, 42), (33, 40), (39, 47)])
def test_what_the_vae_crops_of_a_photo_stays_the_photos(height: int, width: int) -> None:
    photo = photo_of(height, width)
    top, left = height % 8 // 2, width % 8 // 2
    found = compositing.keep_pixels(
        photo[None], torch.ones(1, 32, 40, 3), torch.ones(1, 32, 40), 4)
    inside = square(height, width, (top, top + 32, left, left + 40)) > 0
    assert (found.images[0][inside] == 1).all()
    assert torch.equal(found.images[0][~inside], photo[~inside])


@pytest.mark.parametrize("how", [Image.Resampling.LANCZOS, Image.Resampling.BOX])
@pytest.mark.parametrize("full, size", [
    ((600, 400), (157, 105)), ((401, 599), (103, 154)), ((500, 500), (135, 135)),
    ((320, 480), (128, 192)),
])
def test_the_size_a_photo_was_encoded_at_is_found(
    full: tuple[int, int], size: tuple[int, int], how: Any
) -> None:
    """Even from an edit of a large part, and with an error of 20 dB everywhere."""
    photo = photo_of(*full)
    seen = encoded(photo, size, how)
    seen = seen + 0.1 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(1))
    rows, columns = seen.shape[:2]
    seen[rows // 4 : rows // 2, columns // 4 : columns // 2] = 0.9
    assert compositing.encoded_size(photo, seen) == size


def test_the_size_of_a_photo_that_was_enlarged_is_found() -> None:
    photo = photo_of(90, 120)
    assert compositing.encoded_size(photo, encoded(photo, (183, 244))) == (183, 244)


def test_in_other_colours_and_light_the_size_is_found_too() -> None:
    photo = photo_of(600, 400)
    seen = 0.9 - 0.3 * torch.tensor([0.5, 1.0, 0.2]) * (1 - encoded(photo, (157, 105)))
    assert compositing.encoded_size(photo, seen) == (157, 105)


def test_a_picture_that_shows_nothing_is_taken_as_not_cropped() -> None:
    assert compositing.encoded_size(photo_of(600, 402), torch.ones(152, 104, 3)) == (152, 104)


def test_a_photo_whose_sides_were_rounded_to_cells_is_taken_as_not_cropped() -> None:
    photo = photo_of(300, 437)
    assert compositing.encoded_size(photo, encoded(photo, (88, 120))) == (88, 120)


def test_an_unchanged_picture_comes_back_to_its_place_from_a_smaller_size() -> None:
    """The whole picture taken from the edit is the photo, but for its fine detail."""
    photo = photo_of(402, 599)
    small = encoded(photo, (103, 154))
    found = compositing.keep_pixels(photo[None], small[None], torch.ones(1, 96, 152), 0).images[0]
    middle = (slice(60, 340), slice(60, 540))
    placed = (found - photo)[middle].abs().mean()
    shifted = (found.roll(2, 1) - photo)[middle].abs().mean()
    assert placed < 0.02 and shifted > 1.5 * placed
    # 103 rows are cropped to 96, three of them above: 3 * 402 / 103 = 11.7 rows of the photo.
    assert torch.equal(found[:12], photo[:12]) and not torch.equal(found[12], photo[12])


def test_a_mask_of_the_decoded_size_is_scaled_to_the_photo() -> None:
    """Four times as large: cells 2 to 4 of the mask are pixels 8 to 16 of the photo."""
    photo = photo_of(96, 128)
    mask = square(24, 32, (2, 4, 5, 9))
    found = compositing.keep_pixels(photo[None], torch.ones(1, 24, 32, 3), mask[None], 2)
    away = distance(96, 128, (8, 16, 20, 36))
    inside = away == 0
    # Scaled bilinearly, a corner's own pixel is 5/8 * 5/8 of the mask, its neighbours 5/8 * 7/8.
    inside[[8, 8, 15, 15], [20, 35, 20, 35]] = False
    assert torch.equal((found.images[0] == 1).all(-1), inside)
    assert torch.equal(found.images[0][away > 2], photo[away > 2])
    assert found.shares[0] == pytest.approx(float((away > 2).float().mean()), abs=0.002)


def test_a_mask_painted_on_the_photo_is_taken_as_it_is() -> None:
    photo, mask = photo_of(96, 128), square(96, 128, (31, 50, 17, 60))
    found = compositing.keep_pixels(photo[None], torch.ones(1, 24, 32, 3), mask[None], 0)
    assert torch.equal((found.images[0] == 1).all(-1), mask == 1)


def test_a_soft_mask_counts_from_one_half_on() -> None:
    mask = torch.linspace(0, 1, 16).expand(1, 16, 16)
    found = compositing.keep_pixels(
        torch.full((1, 16, 16, 3), 0.25), torch.ones(1, 16, 16, 3), mask, 0)
    assert torch.equal(found.images[0, :, :, 0] == 1, mask[0] >= 0.5)


def test_a_photo_with_transparency_gives_its_colours() -> None:
    photo = torch.cat([photo_of(16, 16), torch.zeros(16, 16, 1)], -1)
    found = compositing.keep_pixels(
        photo[None], torch.ones(1, 16, 16, 3), square(16, 16, (4, 8, 4, 8))[None], 0)
    assert found.images.shape == (1, 16, 16, 3)
    assert torch.equal(found.images[0, 8:], photo[8:, :, :3])


@pytest.mark.parametrize("value, message", [
    (0.0, "mask 1 is empty, so the photo stands in the place of edit 1"),
    (1.0, "mask 1 covers the whole picture, so edit 1 keeps nothing of the photo; name blend"),
])
def test_a_mask_that_decides_nothing_is_told(
    value: float, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    photo, edit = photo_of(16, 16), torch.ones(1, 16, 16, 3)
    with caplog.at_level(logging.WARNING, logger="stylediffusion"):
        found = compositing.keep_pixels(photo[None], edit, torch.full((1, 16, 16), value), 2)
    assert torch.equal(found.images[0], edit[0] if value else photo)
    assert found.difference == 0 and found.shares == (1 - value,)
    assert message in caplog.text


def test_the_report_says_the_difference_and_what_was_kept() -> None:
    photo, mask = photo_of(16, 16), square(16, 16, (0, 4, 0, 16))
    found = compositing.keep_pixels(photo[None], torch.ones(2, 16, 16, 3), mask[None], 0)
    assert found.report == "difference outside the edits: 0\nkept of the photo: 100.0 %, 75.0 %"


GOOD: dict[str, Any] = {
    "image": torch.full((1, 40, 60, 3), 0.5), "edits": torch.ones(2, 40, 56, 3),
    "mask": torch.ones(2, 40, 56), "feather": 0}


@pytest.mark.parametrize("spoilt, message", [
    ({"image": torch.zeros(3, 40, 60, 3)}, "image holds 3 pictures.*ImageFromBatch"),
    ({"image": torch.zeros(1, 60, 60, 3)}, "the image is 60 x 60, but the edits are 56 x 40"),
    ({"image": None}, "image is None.*connect Load Image.*muted nor bypassed"),
    ({"edits": None}, "edits is None.*connect the pictures that VAE Decode makes"),
    ({"edits": torch.ones(2, 40, 56, 1)}, r"edits is \(2, 40, 56, 1\), but pictures in colour"),
    ({"edits": torch.full((2, 40, 56, 3), float("nan"))}, "edits has values.*--fp32-vae"),
    ({"mask": torch.ones(3, 40, 56)}, "holds 3 masks, but the number of edits is 2; connect"),
    ({"mask": torch.ones(2, 64, 64)}, "the mask is 64 x 64, but the edits are 56 x 40 and the "
                                      "photo is 60 x 40; connect Sample's mask"),
])
def test_what_does_not_belong_together_is_an_error_with_the_remedy(
    spoilt: dict[str, Any], message: str
) -> None:
    compositing.keep_pixels(**GOOD)
    with pytest.raises(ValueError, match=message):
        compositing.keep_pixels(**{**GOOD, **spoilt})
