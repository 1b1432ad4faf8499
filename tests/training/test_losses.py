"""The losses and weights of training, by formulas written out; and what the VAE is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from demo import scenes
from training import diffusion, vae
from training.data import Budget, fidelity


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_edges_are_the_differences_to_the_right_and_downwards() -> None:
    picture = drawn(1, 2, 3, 4, 5)
    found = vae.edges(picture)
    assert found.shape == (2, 3, 3, 4)
    for y in range(3):
        for x in range(4):
            here = picture[..., y, x]
            wanted = (picture[..., y, x + 1] - here).abs() + (picture[..., y + 1, x] - here).abs()
            torch.testing.assert_close(found[..., y, x], wanted)


def test_the_picture_loss_is_its_four_parts() -> None:
    back, images = drawn(2, 2, 3, 4, 5), drawn(3, 2, 3, 4, 5)
    error = (back - images).double()
    red, green, blue = error[:, 0], error[:, 1], error[:, 2]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # of JPEG, as are blue and red beside it
    chroma = torch.stack([0.5 * (blue - luma) / (1 - 0.114), 0.5 * (red - luma) / (1 - 0.299)])
    edges = ((error[..., :-1, 1:] - error[..., :-1, :-1]).abs()
             + (error[..., 1:, :-1] - error[..., :-1, :-1]).abs())
    of_each = [(one**2).mean() ** 0.5 for one in error]
    wanted = (error.abs().mean() + sum(of_each) / len(of_each) + 0.5 * edges.mean()
              + 2 * chroma.abs().mean())
    assert float(vae.picture_loss(back, images)) == pytest.approx(float(wanted), rel=1e-4)


def test_a_grey_error_costs_no_chroma() -> None:
    grey = torch.full((1, 3, 4, 4), 0.1)
    assert float(vae.picture_loss(grey, torch.zeros_like(grey))) == pytest.approx(0.1 + 0.1)
    assert float(vae.picture_loss(grey * torch.tensor([1, 1, -1])[:, None, None],
                                  torch.zeros_like(grey))) > 0.25


def test_the_spread_is_zero_for_white_latents_and_grows_with_mean_and_deviation() -> None:
    whitened = drawn(4, 6, 4, 8, 8) - 0.5
    whitened -= whitened.mean((0, 2, 3), keepdim=True)
    whitened /= whitened.transpose(0, 1).flatten(1).std(1).view(4, 1, 1)
    assert float(vae.spread(whitened)) == pytest.approx(0, abs=1e-10)
    assert float(vae.spread(3 * whitened + 0.5)) == pytest.approx(0.25 + 4)


def test_epsilon_is_weighted_by_five_over_the_signal_to_noise_ratio_at_most_one() -> None:
    levels = torch.tensor([0.99, 0.9, 5 / 6, 0.5, 0.01])
    wanted = torch.tensor([5 / 99, 5 / 9, 1.0, 1.0, 1.0])
    torch.testing.assert_close(diffusion.min_snr_weight(levels), wanted)


def test_levels_are_those_of_stable_diffusion() -> None:
    product, wanted = 1.0, []
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        wanted.append(product)
    assert diffusion.alphas_cumprod().tolist() == pytest.approx(wanted, rel=1e-9)


def test_plain_attention_is_softmax_of_queries_by_keys() -> None:
    q, k, v = drawn(5, 2, 6, 8), drawn(6, 2, 7, 8), drawn(7, 2, 7, 8)
    found = diffusion.plain_attention(None, q, k, v, 2)
    for head in (slice(0, 4), slice(4, 8)):
        maps = torch.exp(q[..., head] @ k[..., head].mT / 2)
        wanted = maps / maps.sum(-1, keepdim=True) @ v[..., head]
        torch.testing.assert_close(found[..., head], wanted)


class Heard(torch.nn.Module):
    """A text encoder that gives ids as they are, or a UNet that notes what it is given."""

    def forward(self, x: Any, t: Any = None, context: Any = None, **_: Any) -> Any:
        if context is None:
            return (x,)
        self.seen = x, t, context
        return torch.zeros_like(x)


def test_a_batch_of_diffusion_is_noised_latents_under_a_caption_of_their_own_or_none(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scene is one number, so x says which it is; each caption is one id; one in ten is none.
    """
    captions, count = diffusion.CAPTIONS_A_SCENE, diffusion.BATCH
    ids = 1 + torch.arange(4 * captions).view(4, captions, 1).expand(-1, -1, 77)
    clean = 1000.0 * torch.arange(1, 5).view(4, 1, 1, 1).expand(4, 4, 8, 8)
    unet, stages = Heard(), []
    for name, value in {
        "load_file": lambda _: {"latents": clean, "ids": ids, "empty": torch.zeros(77).long()},
        "vocabulary_ids": lambda: torch.arange(4 * captions + 1), "vocabulary_rows": lambda _: {},
        "begin": lambda *_, **__: None,
        "train": lambda *given: stages.append(given[-1]),
    }.items():
        monkeypatch.setattr(diffusion, name, value)
    monkeypatch.setattr(diffusion.parts, "new_unet", lambda: unet)
    monkeypatch.setattr(diffusion.parts, "new_text_encoder", lambda _: Heard())
    diffusion.train_diffusion(SimpleNamespace(file=lambda name: name, compiled=False))  # type: ignore[arg-type]
    dropped, levels = 0, diffusion.alphas_cumprod().to(diffusion.DEVICE)
    for step in range(64):
        torch.manual_seed(step)
        loss = stages[0](step)
        x, t, context = unet.seen
        assert ((t - t[0]) % 1000).tolist() == [i * 1000 // count for i in range(count)]
        level = levels[t].view(-1, 1, 1, 1)
        scene = (x.double() / level.sqrt()).mean((1, 2, 3)) / 1000
        far = level.flatten() > 0.05  # where the noise does not drown the number
        assert (scene - scene.round()).abs()[far].max() < 0.02
        wanted = 1000 * scene.round().clamp(1, 4).view(-1, 1, 1, 1)
        noise = (x - level.sqrt() * wanted) / (1 - level).sqrt()
        weight = (5 * (1 - level) / level).clamp(max=1)
        assert float(loss) == pytest.approx(float((weight * noise**2).mean()), rel=1e-3)
        caption = context[:, 0].long()
        told = (caption > 0) & far
        assert ((caption[told] - 1) // captions + 1 == scene.round()[told]).all()
        dropped += int((caption == 0).sum())
    assert 0.05 < dropped / (64 * count) < 0.15


def test_crops_are_squares_of_the_pictures_on_the_latents_grid_most_of_them_of_sketches(
    tmp_path: Path
) -> None:
    pictures = (255 * drawn(8, 6, 3, 128, 128)).to(torch.uint8)
    sketch = torch.tensor([True, False, True, False, False, True])
    save_file({"pictures": pictures, "sketch": sketch}, tmp_path / "pictures.safetensors")
    crops = vae.Crops(Budget(tmp_path, 0, 1, 1.0))
    torch.manual_seed(9)
    found = (crops.draw() * 255).round().to(torch.uint8).cpu()
    assert found.shape == (vae.CROPS, 3, 64, 64)
    of = []
    for crop in found:
        (place,) = (i for i, picture in enumerate(pictures) if any(
            torch.equal(crop, picture[:, y : y + 64, x : x + 64])
            for y in range(0, 65, 8) for x in range(0, 65, 8)))
        of.append(bool(sketch[place]))
    assert sum(of) == vae.CROPS * 5 // 8


def test_of_three_places_the_one_with_most_edges_is_shown(tmp_path: Path) -> None:
    """Half of the picture is flat: that is shown only where all three places lie in it."""
    picture = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    picture[..., 64:] = (255 * drawn(10, 3, 128, 64)).to(torch.uint8)
    save_file({"pictures": picture.expand(2, -1, -1, -1).contiguous(),
               "sketch": torch.tensor([True, False])}, tmp_path / "pictures.safetensors")
    crops = vae.Crops(Budget(tmp_path, 0, 1, 1.0))
    torch.manual_seed(12)
    shown = torch.cat([vae.edges(crops.draw()).mean((1, 2, 3)) for _ in range(20)])
    torch.manual_seed(12)
    for _ in range(20):
        for count in (vae.CROPS * 5 // 8, vae.CROPS - vae.CROPS * 5 // 8):
            torch.randint(1, (count,))
        columns = torch.randint(9, (3, vae.CROPS, 2))[..., 1] * 8
        noisy = (columns.max(0).values > 0).float()  # at 0 a place is flat
        found, shown = shown[: vae.CROPS].cpu(), shown[vae.CROPS :]
        assert torch.equal((found > 0).float(), noisy)


def test_a_round_trip_that_is_off_by_a_tenth_everywhere_has_twenty_decibels() -> None:
    found = fidelity(lambda images: torch.where(images > 0.5, images - 0.1, images + 0.1), 5, 2)
    assert found == dict.fromkeys(scenes.STYLES, 20.0)
    assert set(fidelity(torch.ones_like, 5, 1).values()) != {20.0}
