"""The file that is shipped: an export is what the loader reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from demo import loading
from demo import model as parts
from training import data, exporting
from training.data import Budget, Training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Budget, Path]]:
    """An export from the shipped weights after a new stage of the decoder, all of one value."""
    folder = tmp_path_factory.mktemp("checkpoints")
    budget, path = Budget(folder, 5, 20, 1.0, loading.WEIGHTS), folder / "exported.safetensors"
    decoder = parts.new_vae().taesd_decoder
    for parameter in decoder.parameters():
        parameter.data.fill_(0.25)
    stage = Training("decoder", budget, {"decoder": decoder}, 0.1, 15)
    stage.step = 20
    stage.save()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "WEIGHTS", path)
        patch.setattr(exporting, "take", lambda source, count: data.take(source, 20))
        assert exporting.export(budget)
    yield budget, path


def test_what_no_stage_has_trained_is_exported_as_it_was_and_the_rest_anew(
    trained: tuple[Budget, Path]
) -> None:
    before, after = load_file(loading.WEIGHTS), load_file(trained[1])
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype, name
        if name.startswith("first_stage_model.taesd_decoder."):
            assert (tensor == 0.25).all(), name
        elif name.startswith("latent_rgb."):
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0.06)
        else:
            assert torch.equal(tensor, before[name]), name


def test_the_loader_reads_an_export(trained: tuple[Budget, Path]) -> None:
    path = trained[1]
    with torch.inference_mode():
        model, clip = loading.load_model(path), loading.load_clip(path)
        vae, vision = loading.load_vae(path), loading.load_vision(path)
        shipped = loading.load_clip().encode_from_tokens(clip.tokenize("a photo of a cat"))
        assert torch.equal(clip.encode_from_tokens(clip.tokenize("a photo of a cat")), shipped)
    for loaded, wanted in ((model.model.diffusion_model, parts.new_unet()),
                           (vision.model, parts.new_vision_tower())):
        assert loaded.state_dict().keys() == wanted.state_dict().keys()
    decoder = vae.first_stage_model.taesd_decoder
    assert all((p == 0.25).all() for p in decoder.parameters())


def test_an_export_says_how_it_came_to_be(trained: tuple[Budget, Path]) -> None:
    with safe_open(loading.WEIGHTS, "pt") as file:
        before = file.metadata()["command"]
    with safe_open(trained[1], "pt") as file:
        metadata = file.metadata()
    assert metadata["seed"] == "5" and metadata["licence"] == "MIT"
    assert metadata["command"] == (
        f"{before}; python -m training.train --stage decoder --steps 20 --weights "
        f"{loading.WEIGHTS.name}")


def test_a_stage_that_neither_ran_nor_was_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint of stage 'vae' .*--weights"):
        exporting.trained_vae(Budget(tmp_path, 1, 1, 1.0))
