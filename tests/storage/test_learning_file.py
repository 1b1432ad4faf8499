"""Unfinished learning runs in files: whole ones of the same run are gone on from, no others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stylediffusion_pack.stylediffusion.method import data, learning
from stylediffusion_pack.stylediffusion.storage import learning_file

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


def test_a_run_that_was_begun_is_gone_on_from(tmp_path: Path) -> None:
    found = learning_file.load(begun(tmp_path / "run"), "k", LIKE, FIRST)
    assert found is not None and found.steps == 2
    assert found.losses == [data.InnerLoss(0, 0, 0.5, 0.0)]


def test_a_first_noise_that_rounding_moved_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    assert learning_file.load(path, "k", LIKE, FIRST * 1.001) is not None
    assert learning_file.load(path, "k", LIKE, FIRST * 1.01) is None
    assert learning_file.load(path, "k", LIKE, FIRST.roll(1)) is None


@pytest.mark.parametrize("other", [
    {"key": "another"}, {"latent": torch.zeros(1, 4, 8, 9)}, {"latent": LATENT + NAN},
    {"first": FIRST + NAN}, {"first": FIRST[..., :7]},
    {"scale": torch.full((2, 77, 8), INF)}, {"solver": {"rows": torch.zeros(77, 8)}},
    {"solver": {}}, {"shift": torch.zeros(1, 77, 8)}, {"scale": torch.zeros(2, 77, 9)},
    {"scale": torch.zeros(2, 7, 8), "shift": torch.zeros(2, 7, 8)},
    {"scale": torch.zeros(2, 77, 8).half()},
], ids=lambda other: ", ".join(other))
def test_a_run_that_does_not_fit_is_begun_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    assert learning_file.load(begun(tmp_path / "run", **other), "k", LIKE, FIRST) is None


@pytest.mark.parametrize("losses", [torch.zeros(4), torch.zeros(2, 3), torch.zeros(())])
def test_losses_of_another_form_begin_anew(tmp_path: Path, losses: torch.Tensor) -> None:
    path = begun(tmp_path / "run")
    tensors = {**load_file(path), "losses": losses.double()}
    save_file(tensors, path, {"format": learning_file.FORMAT, "key": "k"})
    assert learning_file.load(path, "k", LIKE, FIRST) is None


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
