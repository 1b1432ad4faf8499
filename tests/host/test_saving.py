"""Where inversions may lie, and what is said when one meets another model."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from stylediffusion_pack.stylediffusion import artifacts
from stylediffusion_pack.stylediffusion.host import sampling, saving

from tests import golden
from tests.edits import embedding_of, trajectory_of


@pytest.fixture(autouse=True)
def output(tmp_path: Path) -> Iterator[Path]:
    before, own = folder_paths.get_output_directory(), tmp_path / "output"
    own.mkdir()
    folder_paths.set_output_directory(str(own))
    yield own
    folder_paths.set_output_directory(before)


@pytest.fixture(scope="module")
def made() -> tuple[Any, artifacts.Trajectory, artifacts.ValueEmbedding]:
    with torch.inference_mode():
        model = golden.load_unet()
        return model, trajectory_of(model), embedding_of(model)


def test_inversions_are_numbered_and_listed_newest_first(made: Any, output: Path) -> None:
    first, second = (saving.save_inversion(made[1], made[2], "kept/cat") for _ in range(2))
    assert first.parent == second.parent == output / "kept" and first.name < second.name
    names = [name for name in saving.saved_inversions() if name.endswith("[output]")]
    assert set(names) == {f"kept/{path.name} [output]" for path in (first, second)}
    assert saving.path_of(names[0]).is_file()


@pytest.mark.parametrize("prefix", ["../cat", "../../cat", "/tmp/cat", "kept/../../cat"])
def test_nothing_is_written_outside_the_output_folder(
    made: Any, output: Path, prefix: str
) -> None:
    around = sorted(output.parent.iterdir())
    with pytest.raises(Exception, match="outside the output folder"):
        saving.save_inversion(made[1], None, prefix)
    assert sorted(output.parent.iterdir()) == around and not list(output.rglob("*"))


@pytest.mark.parametrize("file", [
    "../cat.inversion.safetensors [output]", "kept/../../cat.inversion.safetensors [output]",
    "{outside} [output]", "{outside} [input]", "{outside}", "cat.inversion.safetensors",
    "cat.inversion.safetensors [temp]", "cat.safetensors [output]", "link.inversion.safetensors "
    "[output]", "", " [output]", "\x00.inversion.safetensors [output]",
])
def test_nothing_is_read_from_outside_the_hosts_folders(
    made: Any, output: Path, file: str
) -> None:
    """Not even through a link that lies inside."""
    outside = output.parent / "cat.inversion.safetensors"
    saving.save_inversion(made[1], None, "cat").rename(outside)
    (output / "link.inversion.safetensors").symlink_to(outside)
    with pytest.raises(ValueError, match="is not an inversion in the output or input folder"):
        saving.path_of(file.format(outside=outside))


def test_another_model_is_a_warning_that_names_both(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, trajectory, embedding = made
    other = replace(trajectory, fingerprint="0" * 16), replace(embedding, fingerprint="1" * 16)
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="stylediffusion"):
        sampling.sampling_parts(model, trajectory, embedding, None, 7.5)
        assert not caplog.text
        sampling.sampling_parts(model, *other, None, 7.5)
    own = trajectory.fingerprint
    for what, its in (("the trajectory", "0" * 16), ("the value embedding", "1" * 16)):
        assert f"{what} was made with model {its}, but the connected MODEL is {own}" in caplog.text


def test_a_lora_is_another_model_and_its_strength_too(made: Any) -> None:
    from stylediffusion_pack.stylediffusion.host.model import fingerprint

    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
    found = {fingerprint(made[0])}
    for strength in (0.5, 1.0):
        patched = made[0].clone()
        patched.add_patches({key: ("diff", (torch.ones(1),))}, strength)
        found.add(fingerprint(patched))
    assert len(found) == 3 and fingerprint(made[0].clone()) in found
