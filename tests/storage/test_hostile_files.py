"""Files made to do harm: refused as files, whatever they hold, and not in hours."""

import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stylediffusion_pack.stylediffusion.method import data, layers, schedule
from stylediffusion_pack.stylediffusion.storage import inversion_file

STEPS = 3
LEVELS = schedule.make_levels(STEPS, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "cat.safetensors"
    trajectory = data.Trajectory(
        torch.randn(STEPS + 1, 4, 16, 24), LEVELS, "a cat", "",
        [(torch.randn(1, 77, 8), {"pooled_output": torch.randn(1, 5)})],
        [(torch.randn(1, 77, 8), {})], (layers.AttentionLayer("input", 4, 0, 4, 6),), "f" * 16)
    embedding = data.ValueEmbedding(
        torch.randn(STEPS, 77, 8), torch.randn(STEPS, 77, 8), guidance=7.5, prompt="a cat",
        fingerprint="f" * 16, losses=(data.InnerLoss(0, 0, 0.1, 0.25),))
    inversion_file.save(path, trajectory, embedding)
    inversion_file.load(path)
    return path


def with_header(path: Path, header: bytes, claimed: int | None = None) -> None:
    """The file with another header, or one that says it is of another size."""
    size = len(header) if claimed is None else claimed
    path.write_bytes(struct.pack("<Q", size) + header + path.read_bytes()[8:][-64:])


def overlapping(path: Path) -> bytes:
    """Two tensors in the same bytes."""
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + size])
    header["embedding.shift"]["data_offsets"] = header["embedding.scale"]["data_offsets"]
    return json.dumps(header).encode()


@pytest.mark.parametrize(("header", "claimed"), [
    (b"{}", 2**62), (b"{}", 2**63 + 5), (b"{}", 10**9), (b"", 0), (b"[1, 2]", None),
    (b"\xff\xfe" * 40, None), (b"[" * 100_000, None),
    (b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}', None),
    (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', None),
    (b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}', None),
    (b'{"a":{"dtype":"PICKLE","shape":[4],"data_offsets":[0,16]}}', None),
], ids=["2^62 bytes", "2^63 bytes", "a gigabyte", "none", "a list", "no text", "nested", "huge",
        "negative", "backwards", "of no type"])
def test_a_header_that_lies_is_refused(
    saved: Path, header: bytes, claimed: int | None
) -> None:
    with_header(saved, header, claimed)
    begun = time.monotonic()
    with pytest.raises(
        inversion_file.FileError, match="'cat.safetensors' cannot be read as a safetensors"
    ):
        inversion_file.load(saved)
    assert time.monotonic() - begun < 60, "what it claims to hold was looked for"


def test_tensors_that_lie_over_each_other_are_refused(saved: Path) -> None:
    header = overlapping(saved)
    size = struct.unpack("<Q", saved.read_bytes()[:8])[0]
    saved.write_bytes(struct.pack("<Q", len(header)) + header + saved.read_bytes()[8 + size :])
    with pytest.raises(inversion_file.FileError, match="cannot be read as a safetensors file"):
        inversion_file.load(saved)


def rewritten(path: Path, tensors: dict[str, Any], **content: Any) -> Path:
    """The file with some other tensors (None takes one away) and content, and no checksum."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksum"]
    changed = {**json.loads(metadata["content"]), **content}
    kept = {k: v for k, v in {**load_file(path), **tensors}.items() if v is not None}
    save_file(kept, path, {**metadata, "content": json.dumps(changed)})
    return path


NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize("tensors", [
    {"trajectory.latents": torch.zeros(4, 4, 0, 0)},
    {"trajectory.latents": torch.zeros(4, 4, 8, 8, dtype=torch.float64)},
    {"trajectory.latents": torch.zeros(4, 4, 8)},
    {"trajectory.latents": torch.full((4, 4, 8, 8), INF)},
    {"trajectory.timesteps": torch.tensor(3)},
    {"trajectory.timesteps": torch.zeros(0, dtype=torch.int64)},
    {"trajectory.timesteps": torch.tensor([-5, 1, 3])},
    {"trajectory.timesteps": torch.tensor([1.0, 2.0, 3.0])},
    {"trajectory.alphas_cumprod": torch.tensor([0.9, 0.5, 0.1, -0.1]).double()},
    {"trajectory.alphas_cumprod": torch.tensor([2.0, 0.5, 0.2, 0.1]).double()},
    {"trajectory.alphas_cumprod": torch.tensor([0.9, NAN, 0.2, 0.1]).double()},
    {"trajectory.alphas_cumprod": torch.tensor([0.9, 0.5, 0.2, 0.1])},
    {"positive.0": torch.full((1, 77, 8), NAN)}, {"positive.0": torch.zeros(2, 77, 8)},
    {"positive.0": torch.zeros(1, 0, 8)}, {"negative.0": torch.zeros(1, 77, 8).half()},
    {"negative.0": torch.zeros(1, 77, 9)},
    {"negative.0": None}, {"positive.0.pooled_output": torch.zeros(5)},
    {"positive.0.pooled_output": torch.full((1, 5), NAN)},
    {"positive.0.width": torch.tensor(512.0)},
    {"embedding.scale": torch.full((3, 77, 8), INF)}, {"embedding.scale": None},
    {"embedding.shift": torch.zeros(3, 77, 8).bfloat16()},
    {"embedding.losses": torch.full((1, 4), NAN).double()},
    {"embedding.losses": torch.zeros(4).double()},
    {"embedding.losses": torch.tensor([[3.0, 0, 0, 0]]).double()},
    {"embedding.losses": torch.tensor([[0.5, 0, 0, 0]]).double()},
    {"embedding.losses": torch.tensor([[0, -1.0, 0, 0]]).double()},
], ids=lambda tensors: ", ".join(
    f"{k} {'gone' if v is None else [*v.shape, v.dtype]}" for k, v in tensors.items()))
def test_tensors_that_no_inversion_has_are_refused(saved: Path, tensors: dict[str, Any]) -> None:
    with pytest.raises(
        inversion_file.FileError, match="'cat.safetensors' is damaged or was changed by"
    ):
        inversion_file.load(rewritten(saved, tensors))


@pytest.mark.parametrize("content", [
    {"layers": [["input", 4, 0, -4, 6]]}, {"layers": [["input", 4, 0, 0, 6]]},
    {"layers": [["input", 4, 0, 17, 6]]}, {"layers": [["input", 4, 0, 4, 60_000]]},
    {"layers": [["input", 4, 0, 4, 6, 7]]}, {"layers": [["input", True, 0, 4, 6]]},
    {"layers": {"input": 4}}, {"layers": 7}, {"layers": [7]},
    {"positive": {"0": {}}}, {"positive": [7]}, {"positive": None},
    {"positive": [{"control": "x"}]}, {"positive": [{"hooks": 1}]},
    {"positive": [{"width": float("nan")}]}, {"positive": [{"width": "x"}]},
    {"positive": [{"height": None}]}, {"positive": [{"pooled_output": 1}]},
    {"prompt": None}, {"negative_prompt": 3}, {"fingerprint": ["x"]},
    {"embedding": []}, {"embedding": None}, {"embedding": {"guidance": None}},
    {"embedding": {"guidance": 10**400}}, {"positive": [{"width": 10**400}]},
], ids=lambda content: str(content)[:60])
def test_content_that_no_inversion_has_is_refused(saved: Path, content: dict[str, Any]) -> None:
    with pytest.raises(
        inversion_file.FileError, match="'cat.safetensors' is damaged or was changed by"
    ):
        inversion_file.load(rewritten(saved, {}, **content))


@pytest.mark.parametrize("steps", [500, 501])
def test_more_than_500_steps_are_refused(saved: Path, steps: int) -> None:
    levels = schedule.Levels(
        torch.arange(steps), torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64))
    trajectory, _ = inversion_file.load(saved)
    longer = replace(trajectory, levels=levels, latents=torch.zeros(steps + 1, 4, 16, 24))
    inversion_file.save(saved, longer, None)
    if steps > 500:
        with pytest.raises(
            inversion_file.FileError, match="'cat.safetensors' is damaged or was changed by"
        ):
            inversion_file.load(saved)
    else:
        assert inversion_file.load(saved)[0].steps == 500


def test_content_nested_without_end_is_refused(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        metadata = {key: file.metadata()[key] for key in ("format", "version")}
    save_file(load_file(saved), saved, {**metadata, "content": "[" * 200_000})
    with pytest.raises(
        inversion_file.FileError, match="'cat.safetensors' is damaged or was changed by"
    ):
        inversion_file.load(saved)


@pytest.mark.parametrize("name", ["control", "hooks", "area", "mask", "model_conds", "gligen"])
def test_a_tensor_does_not_get_among_what_the_host_reads_beside_a_prompt(
    saved: Path, name: str
) -> None:
    with pytest.raises(inversion_file.FileError, match=f"positive.0.{name}"):
        inversion_file.load(rewritten(saved, {f"positive.0.{name}": torch.zeros(1, 5)}))


def test_tensors_of_no_known_name_are_left_unread(saved: Path) -> None:
    strange = {"__class__": torch.zeros(2), "x.y": torch.ones(1)}
    trajectory, _ = inversion_file.load(rewritten(saved, strange))
    assert set(vars(trajectory)) == set(data.Trajectory.__dataclass_fields__)
    assert set(trajectory.positive[0][1]) == {"pooled_output"}
