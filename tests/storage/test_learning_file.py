"""Unfinished learning runs in files: whole ones of the same run are gone on from, no others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stylediffusion_pack.stylediffusion.method import data, learning
from stylediffusion_pack.stylediffusion.storage import learning_file, reading, writing

NAN, INF = torch.nan, torch.inf
LIKE, LATENT = {"rows": torch.zeros(154, 8)}, torch.zeros(1, 4, 8, 8)
FIRST = torch.linspace(-2, 2, 256).reshape(1, 4, 8, 8)


def begun(path: Path, key: str = "k", **other: Any) -> Path:
    parts = {"scale": torch.zeros(2, 77, 8), "shift": torch.zeros(2, 77, 8),
             "latent": LATENT.clone(), "first": FIRST.clone(),
             "solver": {"rows": torch.zeros(154, 8)}, **other}
    learning_file.save(path, learning.Learnt(
        parts["scale"], parts["shift"], parts["latent"], [data.InnerLoss(0, 0, 0.5, 0.0)],
        parts["solver"]), key, parts["first"])
    return path


def load(path: Path, first: torch.Tensor = FIRST, steps: int = 5) -> learning.Learnt | None:
    return learning_file.load(path, "k", LIKE, first, steps)


def test_a_run_that_was_begun_is_gone_on_from(tmp_path: Path) -> None:
    found = load(begun(tmp_path / "run"))
    assert found is not None and found.steps == 2
    assert found.losses == [data.InnerLoss(0, 0, 0.5, 0.0)]


def test_a_first_noise_that_rounding_moved_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    assert load(path, FIRST * 1.001) is not None
    assert load(path, FIRST * 1.01) is None
    assert load(path, FIRST.roll(1)) is None


@pytest.mark.parametrize("other", [
    {"key": "another"}, {"latent": torch.zeros(1, 4, 8, 9)}, {"first": FIRST[..., :7]},
    {"solver": {"rows": torch.zeros(77, 8)}}, {"solver": {}},
], ids=lambda other: ", ".join(other))
def test_another_run_is_begun_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    assert load(begun(tmp_path / "run", **other)) is None


@pytest.mark.parametrize("steps", [1, 5])
def test_a_run_may_have_any_number_of_its_steps(tmp_path: Path, steps: int) -> None:
    path = begun(
        tmp_path / "run", scale=torch.zeros(steps, 77, 8), shift=torch.zeros(steps, 77, 8))
    found = load(path)
    assert found is not None and found.steps == steps


def test_a_run_of_a_solver_with_another_part_as_well_is_begun_anew(tmp_path: Path) -> None:
    like = {**LIKE, "pairs": torch.zeros(3)}
    path = begun(tmp_path / "run")
    assert learning_file.load(path, "k", like, FIRST, 5) is None
    assert learning_file.load(path, "k", {}, FIRST, 5) is not None


@pytest.mark.parametrize(("other", "what"), [
    ({"latent": LATENT + NAN}, "latent has values that are not finite"),
    ({"first": FIRST + NAN}, "first has values"), ({"latent": LATENT[0]}, "latent has shape"),
    ({"scale": torch.full((2, 77, 8), INF)}, "scale has values"),
    ({"shift": torch.zeros(1, 77, 8)}, r"shift has shape \(1, 77, 8\)"),
    ({"scale": torch.zeros(2, 77, 9)}, r"shift has shape \(2, 77, 8\)"),
    ({"scale": torch.zeros(2, 7, 8), "shift": torch.zeros(2, 7, 8)}, "scale has shape"),
    ({"scale": torch.zeros(2, 77, 8).half()}, "scale is torch.float16"),
    ({"scale": torch.zeros(6, 77, 8), "shift": torch.zeros(6, 77, 8)}, "it has 6 steps of 5"),
    ({"scale": torch.zeros(0, 77, 8), "shift": torch.zeros(0, 77, 8)}, "it has 0 steps of 5"),
    ({"solver": {"rows": torch.full((154, 8), NAN)}}, "its solver is not finite"),
], ids=lambda value: value[:20] if isinstance(value, str) else "")
def test_a_run_that_no_learning_writes_is_damaged(
    tmp_path: Path, other: dict[str, Any], what: str
) -> None:
    with pytest.raises(reading.DamagedError, match=what):
        load(begun(tmp_path / "run", **other))


@pytest.mark.parametrize("losses", [
    torch.zeros(4), torch.zeros(2, 3), torch.zeros(()), torch.tensor([[2.0, 0, 0, 0]]),
    torch.tensor([[0, 0.5, 0, 0]]), torch.tensor([[-1.0, 0, 0, 0]])])
def test_losses_of_another_form_are_damage(tmp_path: Path, losses: torch.Tensor) -> None:
    path = begun(tmp_path / "run")
    tensors = {**load_file(path), "losses": losses.double()}
    writing.write_whole(path, tensors, {"format": learning_file.FORMAT, "key": "k"})
    with pytest.raises(reading.DamagedError, match="losses"):
        load(path)


@pytest.mark.parametrize("name", ["scale", "shift", "latent", "first", "losses"])
def test_a_part_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    path = begun(tmp_path / "run")
    tensors = {k: v for k, v in load_file(path).items() if k != name}
    writing.write_whole(path, tensors, {"format": learning_file.FORMAT, "key": "k"})
    with pytest.raises(reading.DamagedError, match=f"there is no {name}"):
        load(path)


def test_a_changed_bit_is_damage_and_so_is_a_file_without_a_checksum(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    whole = path.read_bytes()
    for place in range(-1, -len(load_file(path)["scale"]) * 100, -7):
        content = bytearray(whole)
        content[place] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(reading.DamagedError, match="holds something else than was written"):
            load(path)
    path.write_bytes(whole)
    save_file(load_file(path), path, {"format": learning_file.FORMAT, "key": "k"})
    with pytest.raises(reading.DamagedError, match="it has no checksum"):
        load(path)


@pytest.mark.parametrize("breaks", ["write_bytes", "replace"])
def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(
    breaks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(tmp_path / "run", "1")

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, breaks, full)
        with pytest.raises(OSError, match="No space left"):
            begun(path, "2")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    begun(path, "2")
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]
