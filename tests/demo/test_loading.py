"""The demo model's file: whole, or refused with the remedy."""

from pathlib import Path

import comfy.model_patcher
import pytest
import torch
from safetensors.torch import save_file
from stylediffusion_pack.demo import loading

AGAIN = "install the pack again"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'gone.safetensors' are missing; {AGAIN}"):
        loading.read_weights(tmp_path / "gone.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(loading.WEIGHTS.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=f"'short.safetensors' is not a whole.*{AGAIN}"):
        loading.read_weights(short)


def test_a_foreign_file_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"lora.up": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="'foreign.safetensors' is not the demo model: it has no"):
        loading.read_weights(foreign)


@pytest.mark.parametrize("load", [loading.load_model, loading.load_vision])
def test_weights_of_another_shape_are_refused(load: object, tmp_path: Path) -> None:
    bent = tmp_path / "bent.safetensors"
    tensors = loading.read_weights()
    for name in tensors:
        if name.startswith((loading.UNET, loading.VISION)):
            tensors[name] = torch.zeros(3)
    save_file(tensors, bent)
    with pytest.raises(ValueError, match=f"do not fit the demo model's .*{AGAIN.split()[0]}"):
        load(bent)


def test_the_host_can_load_model_and_text_encoder_anew_as_it_does_for_copies() -> None:
    for loaded in (loading.load_model(), loading.load_clip().patcher):
        load, arguments = loaded.cached_patcher_init
        again = load(*arguments, disable_dynamic=True)
        assert type(again) is comfy.model_patcher.ModelPatcher
        first, second = (patcher.model_state_dict() for patcher in (loaded, again))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_file_is_small_and_says_how_it_was_made() -> None:
    from safetensors import safe_open

    assert loading.WEIGHTS.stat().st_size <= 16_000_000
    with safe_open(loading.WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata["licence"] == "MIT"
    assert {"command", "seed", "data_version"} <= set(metadata)
