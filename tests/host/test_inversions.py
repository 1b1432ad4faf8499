"""Where inversions may lie, and what is said when one meets another model."""

import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from stylediffusion_pack.nodes.files import LoadInversion
from stylediffusion_pack.stylediffusion.host import inversions
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.method import data

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
def made() -> tuple[Any, data.Trajectory, data.ValueEmbedding]:
    with torch.inference_mode():
        model = golden.load_unet()
        return model, trajectory_of(model), embedding_of(model)


def test_inversions_are_numbered_and_listed_newest_first(made: Any, output: Path) -> None:
    first, second = (inversions.save_inversion(made[1], made[2], "kept/cat") for _ in range(2))
    assert first.parent == second.parent == output / "kept" and first.name < second.name
    names = [name for name in inversions.saved_inversions() if name.endswith("[output]")]
    assert set(names) == {f"kept/{path.name} [output]" for path in (first, second)}
    assert inversions.path_of(names[0]).is_file()


def test_the_folders_are_gone_through_once_a_second_however_often_the_host_asks(
    made: Any, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, scans, scan = [100.0], list[str](), os.scandir

    def counted(folder: str) -> Any:
        scans.append(folder)
        return scan(folder)

    monkeypatch.setattr(inversions.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(inversions.os, "scandir", counted)
    for _ in range(4):
        LoadInversion.INPUT_TYPES()
    assert scans.count(str(output)) == 1
    saved = inversions.save_inversion(made[1], None, "cat")
    assert f"{saved.name} [output]" in inversions.saved_inversions()
    saved.unlink()
    now[0] += 1
    assert f"{saved.name} [output]" not in inversions.saved_inversions()


@pytest.mark.parametrize("prefix", ["../cat", "../../cat", "/tmp/cat", "kept/../../cat"])
def test_nothing_is_written_outside_the_output_folder(
    made: Any, output: Path, prefix: str
) -> None:
    around = sorted(output.parent.iterdir())
    with pytest.raises(ValueError, match=f"filename_prefix is '{prefix}', .* outside the output f"):
        inversions.save_inversion(made[1], None, prefix)
    assert sorted(output.parent.iterdir()) == around and not list(output.rglob("*"))


def test_a_prefix_on_another_drive_is_outside_the_output_folder(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are drives, the two paths have nothing in common to ask for."""
    def apart(paths: Any) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", apart)
    with pytest.raises(ValueError, match="filename_prefix is 'D:/cat', .* outside the output fold"):
        inversions.save_inversion(made[1], None, "D:/cat")


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
    inversions.save_inversion(made[1], None, "cat").rename(outside)
    (output / "link.inversion.safetensors").symlink_to(outside)
    with pytest.raises(ValueError, match="is not an inversion in the output or input folder"):
        inversions.path_of(file.format(outside=outside))


def test_another_model_is_a_warning_that_names_both(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, trajectory, embedding = made
    other = replace(trajectory, fingerprint="0" * 16), replace(embedding, fingerprint="1" * 16)
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="stylediffusion"):
        sampling.sampling_parts(Edit(model, trajectory, embedding, None, 7.5))
        assert not caplog.text
        sampling.sampling_parts(Edit(model, *other, None, 7.5))
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


CAT = "cat.inversion.safetensors"


def listed() -> list[str]:
    """What Load Inversion offers, of what lies in the output folder."""
    options = LoadInversion.define_schema().inputs[0].options
    return [name for name in options if name.endswith("[output]")]


def not_utf8(output: Path) -> None:
    for name in (b"\xff." + CAT.encode(), b"\xfe/"):
        path = os.path.join(os.fsencode(output), name)
        os.mkdir(path) if name.endswith(b"/") else open(path, "w").close()
    open(os.path.join(os.fsencode(output), b"\xfe", CAT.encode()), "w").close()


FOUND = {
    "a link to nothing": lambda output: (output / f"a.{CAT}").symlink_to("gone"),
    "a link to itself": lambda output: (output / f"a.{CAT}").symlink_to(f"a.{CAT}"),
    "two links in a circle": lambda output: [
        (output / f"{a}.{CAT}").symlink_to(f"{b}.{CAT}") for a, b in ("ab", "ba")],
    "a folder linked into itself": lambda output: (output / "in").symlink_to(output),
    "a folder of that ending": lambda output: (output / f"a.{CAT}").mkdir(),
    "a pipe of that ending": lambda output: os.mkfifo(output / f"a.{CAT}"),
    "names that are not UTF-8": not_utf8,
}


@pytest.mark.parametrize("name", FOUND)
def test_nothing_that_a_folder_holds_stops_the_list(output: Path, name: str) -> None:
    (output / CAT).touch()
    FOUND[name](output)
    assert listed() == [f"{CAT} [output]"]


def test_folders_in_folders_without_end_do_not_stop_the_list(output: Path) -> None:
    (output / CAT).touch()
    made = [str(output)]
    for _ in range(1_200):
        made.append(made[-1] + "/d")
        os.mkdir(made[-1])
    try:
        assert listed() == [f"{CAT} [output]"]
    finally:
        for folder in made[:0:-1]:
            os.rmdir(folder)


@contextmanager
def vanishing(entries: Any) -> Iterator[Iterator[Any]]:
    """A listing whose files are deleted before anything is asked about them."""
    found = list(entries)
    for entry in found:
        if entry.name.startswith("gone"):
            os.unlink(entry.path)
    yield iter(found)


def test_a_file_deleted_while_the_list_is_made_is_left_out(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (CAT, f"gone.{CAT}"):
        (output / name).touch()
    scan = os.scandir
    monkeypatch.setattr(inversions.os, "scandir", lambda folder: vanishing(scan(folder)))
    assert listed() == [f"{CAT} [output]"]


def test_a_folder_that_may_not_be_read_hides_what_is_in_it_only(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir
    for folder in (output, output / "own", output / "other"):
        folder.mkdir(exist_ok=True)
        (folder / CAT).touch()

    def guarded(folder: str) -> Any:
        if folder.endswith("other"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(inversions.os, "scandir", guarded)
    assert set(listed()) == {f"{CAT} [output]", f"own/{CAT} [output]"}


def test_without_an_output_folder_the_list_is_empty(output: Path) -> None:
    output.rmdir()
    assert listed() == []


@pytest.mark.parametrize("name", [
    "\udcff." + CAT, "n" * 300 + "." + CAT, "d/" * 3000 + CAT, "x\0" + CAT, "\u0442\u0438." + CAT])
def test_a_name_that_no_file_can_have_is_refused_in_words_that_can_be_printed(name: str) -> None:
    found = LoadInversion.validate_inputs(f"{name} [output]")
    assert isinstance(found, str) and "choose" in found
    found.encode()


def blocked(output: Path) -> None:
    (output / "file").touch()
    (output / "loop").symlink_to("loop")
    (output / "gone").symlink_to("nowhere")


@pytest.mark.parametrize(("prefix", "message"), [
    ("file/cat", "saved as '.*output/file/cat' .*in a folder's place; move it away, or write anot"),
    ("file/a/cat", "in a folder's place"), ("gone/cat", "in a folder's place"),
    ("loop/cat", "links lead in a circle there; write another folder in filename_prefix"),
    ("c" * 250, "the name is too long; write a shorter one in filename_prefix"),
    ("kept/" + "c" * 240, "the name is too long"), ("c/" * 3000, "the name is too long"),
    ("\ud800", r"filename_prefix is '\\ud800', .* a broken character.*type it anew"),
    ("c\0t", r"filename_prefix is 'c\\0t'"), (None, "the filename_prefix is None"),
])
def test_a_place_where_nothing_can_be_saved_is_named_with_the_remedy(
    made: Any, output: Path, prefix: Any, message: str
) -> None:
    blocked(output)
    with pytest.raises(ValueError, match=message) as caught:
        inversions.save_inversion(made[1], None, prefix)
    assert len(str(caught.value)) < 600
    assert not [path for path in output.rglob("*") if path.is_file() and path.name != "file"]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder that nobody can write to")
def test_a_folder_that_may_not_be_written_to_is_named(made: Any) -> None:
    folder_paths.set_output_directory("/sys")
    with pytest.raises(ValueError, match="saved as '/sys/kernel/cat' .*may not write there; give"):
        inversions.save_inversion(made[1], None, "kernel/cat")


def test_a_disk_that_takes_no_more_leaves_the_old_files_and_no_other(
    made: Any, output: Path
) -> None:
    old = inversions.save_inversion(made[1], made[2], "cat")
    content, before = old.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ValueError, match="was not saved as .*the disk takes no file of this"):
            inversions.save_inversion(made[1], made[2], "cat")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(output.iterdir()) == [old] and old.read_bytes() == content


def test_a_full_disk_is_named_with_its_remedy(
    made: Any, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left .* the disk is full; free some space, and"):
        inversions.save_inversion(made[1], None, "cat")


def test_saving_removes_what_a_killed_server_left_there_an_hour_ago(
    made: Any, output: Path
) -> None:
    for name, age in ((f"a.{CAT}.part", 4000), (f"b.{CAT}.part", 10), ("c.part", 4000)):
        (output / name).touch()
        os.utime(output / name, (time.time() - age,) * 2)
    path = inversions.save_inversion(made[1], None, "cat")
    assert {found.name for found in output.iterdir()} == {path.name, f"b.{CAT}.part", "c.part"}


def test_an_embedding_of_another_picture_is_not_saved_with_this_one(
    made: Any, output: Path
) -> None:
    _, trajectory, embedding = made
    other = replace(embedding, ends=1 + trajectory.latents[[0, -1]])
    with pytest.raises(ValueError, match="was learnt for another picture"):
        inversions.save_inversion(trajectory, other, "cat")
    assert not list(output.iterdir())


def test_no_trajectory_is_an_error_that_says_what_to_connect() -> None:
    with pytest.raises(ValueError, match="the trajectory is None.*connect DDIM Invert, and see"):
        inversions.save_inversion(None, None, "cat")
