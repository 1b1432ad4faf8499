"""A file is whole or not there, and killed writers' leavings go."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from stylediffusion_pack.stylediffusion.storage import writing

TENSORS = {"a": torch.arange(5000.0), "b": torch.ones(2, 3).t()}


def test_what_is_written_is_there_with_its_metadata_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    shared = torch.arange(6.0)
    writing.write_whole(path, {**TENSORS, "c": shared, "d": shared[2:]}, {"format": "x"})
    back = load_file(path)
    assert back["a"].equal(TENSORS["a"]) and back["b"].equal(torch.ones(3, 2))
    assert back["d"].tolist() == [2.0, 3.0, 4.0, 5.0]
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {"format", "checksum"}
    assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.fixture
def full() -> Iterator[None]:
    """No file of this process may grow beyond 4 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_old_file_stays_where_the_disk_does_not_take_the_new_one(
    tmp_path: Path, full: None
) -> None:
    path = tmp_path / "a.safetensors"
    writing.write_whole(path, {"a": torch.ones(3)}, {})
    with pytest.raises(OSError, match="File too large"):
        writing.write_whole(path, TENSORS, {})
    assert load_file(path)["a"].tolist() == [1.0, 1.0, 1.0]
    assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_folder_in_the_files_place_is_the_systems_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    (path / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        writing.write_whole(path, TENSORS, {})
    assert [found.name for found in tmp_path.rglob("*")] == ["a.safetensors", "kept"]


def test_only_old_parts_of_that_ending_are_removed(tmp_path: Path) -> None:
    old = ("cat.x.safetensors.part", "\udcff.x.safetensors.part", "[1].x.safetensors.part")
    kept = ("cat.y.safetensors.part", "cat.x.safetensors", "cat.x.safetensors.part.txt")
    for name in (*old, *kept):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 4000,) * 2)
    (tmp_path / "new.x.safetensors.part").touch()
    (tmp_path / "folder.x.safetensors.part").mkdir()
    os.utime(tmp_path / "folder.x.safetensors.part", (0, 0))
    writing.remove_stale_parts(tmp_path, ".x.safetensors")
    assert {found.name for found in tmp_path.iterdir()} == {
        *kept, "new.x.safetensors.part", "folder.x.safetensors.part"}
    writing.remove_stale_parts(tmp_path / "gone", ".x.safetensors")


def test_a_checksum_tells_names_shapes_types_numbers_and_metadata_apart() -> None:
    zeros = torch.zeros(6)
    contents = [
        ({"a": zeros}, {}), ({"b": zeros}, {}), ({"a": zeros.view(2, 3)}, {}),
        ({"a": zeros.to(torch.int32)}, {}), ({"a": zeros + 1}, {}), ({"a": zeros}, {"key": "k"}),
        ({"a": zeros[:3], "b": zeros[3:]}, {}), ({"a": zeros[3:], "c": zeros[:3]}, {}),
    ]
    assert len({writing.checksum(*content) for content in contents}) == len(contents)
    assert writing.checksum({"a": zeros, "b": zeros + 1}, {}) == writing.checksum(
        {"b": zeros + 1, "a": zeros}, {}), "in whatever order"
