"""Where words look half-way through an inversion: seen on the way, and nothing changed by it."""

import base64
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from stylediffusion_pack.nodes.invert import DDIMInvert
from stylediffusion_pack.stylediffusion.host.invert import inversion, word_heat
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.model import training_alphas
from stylediffusion_pack.stylediffusion.method import alignment, schedule

from demo import loading, scenes
from tests import families
from tests.host.views.test_heat import quarter_maps

HEIGHT, WIDTH = 16, 24
COLUMNS = torch.zeros(77, 3)
COLUMNS[2, 0] = COLUMNS[[4, 5], 1] = COLUMNS[70, 2] = 1


def inverted(model: Any, family: str, steps: int, columns: torch.Tensor | None) -> Any:
    latent = torch.randn(1, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(9))
    levels = schedule.make_levels(steps, training_alphas(model))
    source = families.prompts(family, 2)[0]
    return inversion.run_inversion(
        model, vp_to_host(model, latent), source, levels, None, columns)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_heat_is_the_sum_of_the_maps_columns_at_the_step_half_way_and_changes_no_bit(
    family: str,
) -> None:
    with torch.inference_mode():
        model = families.load(family)
        watched, plain = (inverted(model, family, 4, columns) for columns in (COLUMNS, None))
        assert torch.equal(watched.latents, plain.latents) and plain.heat is None
        maps = quarter_maps(model, SimpleNamespace(  # type: ignore[arg-type]
            latents=watched.latents, positive=families.prompts(family, 2)[0]), 2)
    wanted = torch.einsum("thw,tc->chw", maps, COLUMNS)
    torch.testing.assert_close(watched.heat, wanted, rtol=1e-3, atol=1e-4)


def test_one_step_has_no_half_way_and_gives_no_heat() -> None:
    with torch.inference_mode():
        assert inverted(families.load("sd15"), "sd15", 1, COLUMNS).heat is None


def test_layers_that_another_node_has_replaced_stay_its_own_to_the_last_bit() -> None:
    with torch.inference_mode():
        model = families.load("sd15")
        patched = model.clone()
        for block in range(12):
            for side in ("input", "output"):
                patched.set_model_attn2_replace(
                    lambda q, k, v, extra: 0.5 * q, side, block)
        watched, plain = (inverted(patched, "sd15", 4, columns) for columns in (COLUMNS, None))
    assert torch.equal(watched.latents, plain.latents) and watched.heat is None


def test_each_word_has_the_tokens_of_its_own_place() -> None:
    prompt = alignment.TokenizedPrompt("a cat, a cat", (0, *range(6), 9), (
        alignment.Word("a", (1,)), alignment.Word("cat,", (2, 3)), alignment.Word("a", (4,)),
        alignment.Word("cat", (5,))))
    columns = word_heat.word_columns(prompt)
    assert columns.T.nonzero().tolist() == [[0, 1], [1, 2], [1, 3], [2, 4], [3, 5]]


def test_the_node_shows_a_picture_and_a_heat_for_each_word_of_its_prompt() -> None:
    with torch.inference_mode():
        model, clip = loading.load_model(), loading.load_clip()
        caption = scenes.caption(next(scenes.random_scenes(1)))
        latent = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))}
        output = DDIMInvert.execute(model, clip, latent, caption, 2)
    (seen,) = output.ui["word_heat"]
    assert seen["prompt"] == caption and len(seen["heats"]) == len(caption.split())
    addresses = [seen["picture"], *seen["heats"]]
    images = [Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
              for address in addresses]
    assert [image.size for image in images] == [(128, 128)] + [(16, 16)] * len(seen["heats"])
    assert {image.mode for image in images[1:]} == {"RGBA"}
    assert addresses[0].startswith("data:image/jpeg;base64,")
    assert all(address.startswith("data:image/png;base64,") for address in addresses[1:])
