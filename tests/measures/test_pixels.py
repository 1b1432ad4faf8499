"""MSE, PSNR and SSIM against loops written out, and the library that published tables use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stylediffusion_pack.stylediffusion.measures import pixels, regions
from torch import Tensor

HEIGHT, WIDTH = 17, 22


def pictures(seed: int, count: int = 1) -> Tensor:
    return torch.rand(count, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))


def box(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, top:bottom, left:right] = 1
    return mask


def squares(first: Tensor, second: Tensor) -> np.ndarray:
    return (first[0].double().numpy() - second[0].double().numpy()) ** 2


def textbook_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, window by window, borders reflected: [H, W, 3]."""
    first, second = (np.pad(p, ((5, 5), (5, 5), (0, 0)), mode="reflect") for p in (first, second))
    down, across = np.mgrid[-5:6, -5:6]
    weight = np.exp(-(down**2 + across**2) / (2 * 1.5**2))
    weight /= weight.sum()
    found = np.empty((HEIGHT, WIDTH, 3))
    for y, x, c in np.ndindex(*found.shape):
        a, b = (p[y : y + 11, x : x + 11, c] for p in (first, second))
        mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
        var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
        both = (weight * (a - mean_a) * (b - mean_b)).sum()
        found[y, x, c] = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4) / (
            (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    return found


def test_an_error_of_a_tenth_everywhere_is_twenty_decibels() -> None:
    grey = torch.full((2, HEIGHT, WIDTH, 3), 0.5, dtype=torch.float64)
    assert pixels.mse(grey, grey + 0.1) == pytest.approx([0.01, 0.01])
    assert pixels.psnr(grey, grey + 0.1) == pytest.approx([20.0, 20.0])
    assert pixels.psnr(grey, grey) == [math.inf, math.inf]


def test_the_regions_take_the_pixels_they_are_named_for() -> None:
    first, second, mask = pictures(1), pictures(2), box(3, 9, 4, 20)
    error, where = squares(first, second), mask[0].bool().numpy()
    wanted = {"whole": error.mean(), "edited": error[where].mean(),
              "unmasked": error[~where].mean(), "as published": error[~where].sum() / error.size}
    for region, value in wanted.items():
        (found,) = pixels.mse(first, second, mask, region)
        assert found == pytest.approx(value, rel=1e-9), region
        (decibels,) = pixels.psnr(first, second, mask, region)
        assert decibels == pytest.approx(-10 * math.log10(value), rel=1e-9), region


def test_as_published_is_kinder_by_the_masked_share() -> None:
    """A third of the picture masked: the zeros make 10 log10(3 / 2) = 1.76 dB."""
    first, second, mask = pictures(1), pictures(2), box(0, HEIGHT, 0, WIDTH)
    mask[:, :, WIDTH // 3:] = 0
    (own,), (kind,) = (pixels.psnr(first, second, mask, region)
                       for region in ("unmasked", "as published"))
    assert own is not None and kind is not None
    share = (WIDTH // 3) / WIDTH
    assert kind - own == pytest.approx(-10 * math.log10(1 - share))


@pytest.mark.parametrize("measure", [pixels.mse, pixels.psnr, pixels.ssim])
@pytest.mark.parametrize("region", ["edited", "unmasked", "as published"])
def test_an_empty_and_a_full_mask_give_no_number(measure: object, region: str) -> None:
    masks = torch.cat([box(0, 0, 0, 0), box(0, HEIGHT, 0, WIDTH), box(0, 3, 0, 3)])
    found = measure(pictures(1), pictures(2, 3), masks, region)  # type: ignore[operator]
    assert found[:2] == [None, None]
    assert region == "edited" and measure is pixels.ssim or found[2] is not None


def test_ssim_is_that_of_the_windows_written_out() -> None:
    first, second = pictures(1), (pictures(1) + 0.3 * pictures(2)).clamp(0, 1)
    wanted = textbook_ssim(first[0].double().numpy(), second[0].double().numpy())
    assert pixels.ssim(first, second) == pytest.approx([wanted.mean()], rel=1e-9)
    mask = box(12, 17, 14, 22)
    seen = np.ones((HEIGHT, WIDTH), dtype=bool)
    seen[12 - 5 :, 14 - 5 :] = False  # windows that reach row 12 and column 14
    assert pixels.ssim(first, second, mask, "unmasked") == pytest.approx([wanted[seen].mean()])
    outside = (1 - mask)[..., None]
    zeros = textbook_ssim(*((p * outside)[0].double().numpy() for p in (first, second)))
    assert pixels.ssim(first, second, mask, "as published") == pytest.approx([zeros.mean()])


def test_nothing_done_inside_the_mask_moves_what_is_measured_outside() -> None:
    first, mask = pictures(1), box(12, 17, 14, 22)
    second = first + 0.1 * pictures(2)
    other = torch.where(mask.bool()[..., None], pictures(3), second)
    for measure in (pixels.mse, pixels.psnr, pixels.ssim):
        assert measure(first, second, mask, "unmasked") == measure(first, other, mask, "unmasked")
        assert measure(first, second) != measure(first, other)


def test_published_tables_library_gives_the_same_numbers() -> None:
    functional = pytest.importorskip(
        "torchmetrics.functional.image", reason="torchmetrics is not installed (extra: metrics)")
    first, second = pictures(1), (pictures(1) + 0.3 * pictures(2)).clamp(0, 1)
    one, two = (p.double().movedim(-1, 1) for p in (first, second))
    wanted = functional.structural_similarity_index_measure(one, two, data_range=1.0)
    assert pixels.ssim(first, second) == pytest.approx([float(wanted)], abs=1e-7)
    wanted = functional.peak_signal_noise_ratio(one, two, data_range=1.0)
    assert pixels.psnr(first, second) == pytest.approx([float(wanted)], abs=1e-6)


def test_one_reference_goes_with_many_edits() -> None:
    first, many = pictures(1), pictures(2, 3)
    each = [pixels.psnr(first, many[i : i + 1])[0] for i in range(3)]
    assert pixels.psnr(first, many) == pytest.approx(each)


def test_sizes_that_differ_are_named_and_nothing_is_resized() -> None:
    with pytest.raises(ValueError, match="reference is 22x17 pixels but the edit is 22x16"):
        pixels.mse(pictures(1), pictures(2)[:, :-1])
    with pytest.raises(ValueError, match="reference is 22x17 pixels but the mask is 21x17"):
        pixels.mse(pictures(1), pictures(2), box(0, 1, 0, 1)[..., :-1], "unmasked")
    with pytest.raises(ValueError, match="2 reference pictures, 3 edits"):
        pixels.psnr(pictures(1, 2), pictures(2, 3))


def test_a_region_without_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="'unmasked' needs a mask"):
        pixels.ssim(pictures(1), pictures(2), None, "unmasked")


def test_means_leave_out_what_has_no_number() -> None:
    assert regions.mean([1.0, None, 4.0]) == 2.5
    assert regions.mean([None]) is None
