"""Files that are no inversions, that were damaged or changed by hand: each is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stylediffusion_pack.stylediffusion.storage import inversion_file

from tests.storage.inversions import STEPS, rewritten


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-40])
    with pytest.raises(
        inversion_file.FileError, match="'cat.safetensors' cannot be read.*save the inv"
    ):
        inversion_file.load(saved)


@pytest.mark.parametrize("place", [-1, -3000, -30000])
def test_one_changed_bit_is_noticed_wherever_it_is(saved: Path, place: int) -> None:
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)
    with pytest.raises(
        inversion_file.FileError, match="holds something else than was written.*save the in"
    ):
        inversion_file.load(saved)


def test_a_word_changed_in_what_a_file_says_is_noticed(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b"a cat", b"a rat"))
    with pytest.raises(inversion_file.FileError, match="holds something else than was written"):
        inversion_file.load(saved)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(inversion_file.FileError, match="'gone.safetensors' cannot be read"):
        inversion_file.load(tmp_path / "gone.safetensors")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"latents": torch.zeros(2)}, path)
    with pytest.raises(inversion_file.FileError, match="'old.pt' cannot be read"):
        inversion_file.load(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"up": torch.zeros(2)}, path)
    with pytest.raises(inversion_file.FileError, match="'lora.safetensors' is not an inversion"):
        inversion_file.load(path)


def alphas(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("change", [
    {"tensors": {"trajectory.timesteps": torch.tensor([0, 3, 999])}},
    {"tensors": {"trajectory.alphas_cumprod": alphas(0.9999, 0.5, 0.4999, 1e-6)}},
    {"tensors": {"positive.0": torch.zeros(1, 154, 8)}},
    {"tensors": {"embedding.losses": torch.zeros(0, 4).double()}},
    {"content": {"layers": []}}, {"content": {"layers": [["input", 0, 0, 1, 1]]}},
])
def test_what_just_fits_is_read(saved: Path, change: dict[str, Any]) -> None:
    back, learnt = inversion_file.load(rewritten(saved, **change))
    assert back.steps == STEPS and learnt is not None


def test_a_later_format_is_refused_with_its_version(saved: Path) -> None:
    with pytest.raises(
        inversion_file.FileError, match="format version 2, but .* reads 1; update the pack"
    ):
        inversion_file.load(rewritten(saved, metadata={"version": "2"}))


@pytest.mark.parametrize(("change", "message"), [
    ({"tensors": {"trajectory.latents": None}}, "trajectory.latents"),
    ({"tensors": {"trajectory.latents": torch.zeros(9, 4, 8, 8)}}, r"shape \(9, 4, 8, 8\)"),
    ({"tensors": {"trajectory.latents": torch.zeros(4, 4, 8, 8).half()}}, "float16"),
    ({"tensors": {"trajectory.latents": torch.full((4, 4, 8, 8), torch.nan)}}, "not finite"),
    ({"tensors": {"trajectory.timesteps": torch.tensor([5, 3, 9])}}, "do not ascend"),
    ({"tensors": {"trajectory.timesteps": torch.tensor([1, 3, 1000])}}, "do not ascend"),
    ({"tensors": {"trajectory.timesteps": torch.tensor([[1], [3], [9]])}}, "it has 3 steps"),
    ({"tensors": {"trajectory.timesteps": torch.tensor([-1, 3, 9])}}, "do not ascend"),
    ({"tensors": {"trajectory.timesteps": torch.tensor([1, 3, 3])}}, "do not ascend"),
    ({"tensors": {"trajectory.alphas_cumprod": torch.ones(4).double()}}, "noise levels"),
    ({"tensors": {"trajectory.alphas_cumprod": alphas(0.9, 0.5, 0.5, 0.1)}}, "noise levels"),
    ({"tensors": {"trajectory.alphas_cumprod": alphas(0.9, 0.5, 0.6, 0.1)}}, "noise levels"),
    ({"tensors": {"trajectory.alphas_cumprod": alphas(0.9, 0.5, 0.1, 0.0)}}, "noise levels"),
    ({"tensors": {"trajectory.alphas_cumprod": alphas(1.0, 0.5, 0.2, 0.1)}}, "noise levels"),
    ({"tensors": {"trajectory.alphas_cumprod": alphas(0.9, 0.5, 0.1)}}, r"shape \(3,\)"),
    ({"tensors": {"embedding.scale": torch.zeros(3, 77, 9)}}, r"shape \(3, 77, 9\)"),
    ({"tensors": {"embedding.scale": torch.zeros(2, 77, 8)}}, r"scale has shape \(2, 77, 8\)"),
    ({"tensors": {"embedding.shift": torch.zeros(4, 77, 8)}}, r"shift has shape \(4, 77, 8\)"),
    ({"tensors": {"embedding.shift": torch.zeros(3, 154, 8)}}, r"shape \(3, 154, 8\)"),
    ({"tensors": {"embedding.losses": torch.zeros(2, 3).double()}}, r"losses has shape \(2, 3\)"),
    ({"tensors": {"embedding.losses": torch.zeros(2, 4)}}, "losses is torch.float32"),
    ({"tensors": {"positive.0": torch.zeros(1, 5, 8)}}, "5 tokens"),
    ({"tensors": {"positive.0": torch.zeros(1, 0, 8)}}, "0 tokens"),
    ({"tensors": {"negative.0": torch.zeros(1, 78, 8)}}, "78 tokens"),
    ({"tensors": {"negative.0": torch.zeros(2, 77, 8)}}, r"shape \(2, 77, 8\)"),
    ({"content": {"layers": [["input", "4", 0, 1, 1]]}}, "'4' is no number"),
    ({"content": {"layers": [["input", -1, 0, 4, 6]]}}, "-1 is no number"),
    ({"content": {"layers": [["input", True, 0, 4, 6]]}}, "True is no number"),
    ({"content": {"layers": [["input", 4.0, 0, 4, 6]]}}, "4.0 is no number"),
    ({"content": {"layers": [["input", 4, 0, 0, 6]]}}, "a layer without cells"),
    ({"content": {"layers": [["input", 4]]}}, "missing"),
    ({"content": {"prompt": {"$type": "os.system"}}}, "no text"),
    ({"content": {"positive": []}}, "no positive conditioning"),
    ({"content": {"positive": [{"hooks": ["x"]}]}}, "foreign values"),
    ({"content": {"embedding": {"guidance": "inf", "prompt": "", "fingerprint": ""}}}, "inf"),
    ({"content": {"embedding": {"guidance": 3, "prompt": "", "fingerprint": "", "kind": "x"}}},
     "'x' is no kind"),
    ({"content": {"embedding": {"guidance": 3, "prompt": "", "fingerprint": "", "kind": []}}},
     r"\[\] is no kind"),
])
def test_a_file_changed_by_hand_is_refused_by_what_is_wrong(
    saved: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(
        inversion_file.FileError, match=f"damaged or was changed by hand.*{message}"
    ):
        inversion_file.load(rewritten(saved, **change))
