"""The comparison sheet: what it reports, how edits are labelled, and what cannot be compared."""

import math
from typing import Any

import pytest
import torch
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host.views import comparison
from stylediffusion_pack.stylediffusion.method import alignment, prompt_to_prompt

HALF = prompt_to_prompt.Window(0.0, 0.5)


@pytest.fixture(scope="module")
def vae() -> Any:
    return loading.load_vae()


def photo(height: int, width: int, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.nn.functional.interpolate(
        torch.rand(count, 3, 5, 5, generator=generator), (height, width)).movedim(1, -1)


def decibel(one: torch.Tensor, other: torch.Tensor) -> str:
    return f"{10 * math.log10(1 / ((one - other) ** 2).double().mean()):.2f} dB"


@pytest.mark.parametrize(("height", "width"), [(64, 96), (67, 101)])
def test_the_report_says_how_near_the_reconstruction_and_the_vae_come(
    vae: Any, height: int, width: int
) -> None:
    with torch.inference_mode():
        image = photo(height, width)
        encoded = vae.encode(image)
        samples = torch.cat([0.5 * encoded, encoded.flip(-1), 0 * encoded])
        sheet, report = comparison.compare(image, vae, {"samples": samples}, None)
        top, left = (height - 64) // 2, (width - 96) // 2
        source = image[:, top : top + 64, left : left + 96]
        near, ceiling = (decibel(vae.decode(z), source) for z in (samples[:1], encoded))
    assert near != ceiling
    assert report == f"reconstruction {near}, ceiling (VAE alone) {ceiling}"
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3


def test_edits_are_labelled_by_their_prompts_or_by_number() -> None:
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    targets = tuple(
        prompt_to_prompt.Target(p, "replace", [], same) for p in ("a red boat", "a blue car"))
    made = prompt_to_prompt.Control("a red car", targets, HALF, HALF, HALF, HALF)
    assert comparison.edit_labels(2, made) == ["\u201ca red boat\u201d", "\u201ca blue car\u201d"]
    assert comparison.edit_labels(2, None) == ["edit 1", "edit 2"]
    with pytest.raises(ValueError, match="targets in the control is 2, but .* edits .* is 1"):
        comparison.edit_labels(1, made)


def test_edits_are_labelled_by_the_lines_of_labels_before_all_else() -> None:
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    one = prompt_to_prompt.Target("a red boat", "replace", [], same)
    made = prompt_to_prompt.Control("a red car", (one,), HALF, HALF, HALF, HALF)
    assert comparison.edit_labels(2, made, "DDIM\r\n\n null text \n") == ["DDIM", "null text"]
    assert comparison.edit_labels(1, made, " \n") == ["\u201ca red boat\u201d"]
    with pytest.raises(ValueError, match=r"lines in labels is 1 \(DDIM\), but .* edits .* is 2.*"
                       "one line for each edit"):
        comparison.edit_labels(2, None, "DDIM")


def test_labels_stand_on_the_sheet(vae: Any) -> None:
    with torch.inference_mode():
        image = photo(64, 96)
        latent = {"samples": vae.encode(image).expand(2, -1, -1, -1)}
        numbered, named = (
            comparison.compare(image, vae, latent, None, names)[0] for names in ("", "null text"))
        assert torch.equal(comparison.compare(image, vae, latent, None, "edit 1")[0], numbered)
    assert named.shape == numbered.shape and not torch.equal(named, numbered)


@pytest.mark.parametrize(("image", "message"), [
    (photo(64, 64), "the image is 64 x 64, but the decoded latent is 96 x 64; connect the picture"),
    (photo(64, 96, 2), "the image holds 2 pictures, but one is needed.*ImageFromBatch"),
])
def test_a_picture_that_cannot_be_compared_is_an_error(
    vae: Any, image: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        comparison.compare(image, vae, {"samples": torch.zeros(2, 4, 8, 12)}, None)


def sampled(**other: Any) -> dict[str, Any]:
    return {"samples": torch.zeros(2, 4, 8, 12), **other}


NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize(("image", "latent", "message"), [
    (None, sampled(), "the image is None.*connect Load Image"),
    (photo(64, 96)[:0], sampled(), r"the image has shape \(0, 64, 96, 3\)"),
    (photo(64, 96)[:, :0], sampled(), r"the image has shape \(1, 0, 96, 3\)"),
    (photo(64, 96)[..., :1], sampled(), r"the image has shape \(1, 64, 96, 1\), but pictures in"),
    (photo(64, 96)[0], sampled(), r"the image has shape \(64, 96, 3\)"),
    (photo(64, 96) * NAN, sampled(), "the image has values that are not finite"),
    (photo(64, 96), None, "the latent is None.*connect Sample"),
    (photo(64, 96), {}, "its samples are NoneType; connect Sample"),
    (photo(64, 96), sampled(samples=torch.zeros(0, 4, 8, 12)), "the latent is empty"),
    (photo(64, 96), sampled(samples=torch.zeros(2, 4, 8, 0)), "the latent is empty"),
    (photo(64, 96), sampled(samples=torch.zeros(2, 1, 8, 12)), "has 1 channels, but the VAE .* 4"),
    (photo(64, 96), sampled(samples=torch.zeros(2, 16, 8, 12)), "16 channels, but the VAE .* 4"),
    (photo(64, 96), sampled(samples=torch.full((2, 4, 8, 12), INF)), "768 of .*the model overflow"),
])
def test_what_cannot_be_compared_is_an_error_with_a_remedy(
    vae: Any, image: Any, latent: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        comparison.compare(image, vae, latent, None)


def test_a_vae_that_overflows_or_is_none_is_named(
    vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="the VAE is None.*connect Load Checkpoint or Load VAE"):
        comparison.compare(photo(64, 96), None, sampled(), None)
    monkeypatch.setattr(vae, "decode", lambda samples: torch.full((2, 64, 96, 3), NAN))
    with pytest.raises(ValueError, match="what the VAE made of the latent is not finite.*fp32-vae"):
        comparison.compare(photo(64, 96), vae, sampled(), None)
