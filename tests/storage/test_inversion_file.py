"""Inversions in files: what is saved comes back, and nothing else gets in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stylediffusion_pack.stylediffusion.method import data, schedule
from stylediffusion_pack.stylediffusion.method.layers import AttentionLayer
from stylediffusion_pack.stylediffusion.storage import inversion_file

STEPS = 3


def trajectory() -> data.Trajectory:
    levels = schedule.make_levels(STEPS, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    positive = [(torch.randn(1, 77, 8), {"pooled_output": torch.randn(1, 5), "width": 1024})]
    negative: data.Conditioning = [(torch.randn(1, 77, 8), {"pooled_output": None})]
    layers = (AttentionLayer("input", 4, 0, 4, 6),)
    latents = torch.randn(STEPS + 1, 4, 16, 24)
    return data.Trajectory(
        latents, levels, "a cat", "", positive, negative, layers, "f" * 16)


def embedding() -> data.ValueEmbedding:
    return data.ValueEmbedding(
        torch.randn(STEPS, 77, 8), torch.randn(STEPS, 77, 8), guidance=7.5, prompt="a cat",
        fingerprint="f" * 16,
        losses=(data.InnerLoss(0, 0, 0.1, 0.25), data.InnerLoss(1, 0, 1 / 3, 0.0)))


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dataclasses, lists and dicts."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and same(vars(a), vars(b))
    return bool(a == b)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "cat.safetensors"
    inversion_file.save(path, trajectory(), embedding())
    return path


@pytest.mark.parametrize("with_embedding", [False, True])
def test_what_is_saved_comes_back_to_the_last_bit(tmp_path: Path, with_embedding: bool) -> None:
    path, first = tmp_path / "cat.safetensors", trajectory()
    second = embedding() if with_embedding else None
    inversion_file.save(path, first, second)
    back, learnt = inversion_file.load(path)
    assert same(back, first)
    assert second is None or same(learnt, replace(second, ends=first.latents[[0, 3]]))
    assert second is not None or learnt is None
    assert [p.name for p in tmp_path.iterdir()] == ["cat.safetensors"]


def test_an_inversion_of_one_step_comes_back(tmp_path: Path) -> None:
    path, levels = tmp_path / "cat.safetensors", schedule.Levels(
        torch.tensor([1]), torch.tensor([0.99, 0.5], dtype=torch.float64))
    first = replace(trajectory(), levels=levels, latents=torch.randn(2, 1, 1, 1))
    inversion_file.save(path, first, None)
    assert same(inversion_file.load(path)[0], first)


def prompt_embedding(kind: str) -> data.PromptEmbedding:
    return data.PromptEmbedding(
        torch.randn(STEPS, 77, 8), {"null text": 1, "text embedding": 0}[kind], guidance=3.5,
        prompt="a cat", fingerprint="f" * 16, losses=(data.InnerLoss(0, 0, 0.1, 0.0),))


@pytest.mark.parametrize("kind", ["null text", "text embedding"])
def test_a_prompt_embedding_comes_back_and_stands_in_its_file_as_a_shift_alone(
    tmp_path: Path, kind: str
) -> None:
    path, first, walked = tmp_path / "cat.safetensors", prompt_embedding(kind), trajectory()
    inversion_file.save(path, walked, first)
    assert same(inversion_file.load(path)[1], replace(first, ends=walked.latents[[0, 3]]))
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("embedding.shift"), first.contexts)
        assert not file.get_tensor("embedding.scale").any()
        assert json.loads(file.metadata()["content"])["embedding"]["kind"] == kind


@pytest.mark.parametrize("kind", ["null text", "text embedding"])
def test_a_prompt_embedding_with_a_scale_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cat.safetensors"
    inversion_file.save(path, trajectory(), prompt_embedding(kind))
    scaled = rewritten(path, tensors={"embedding.scale": torch.ones(STEPS, 77, 8)})
    with pytest.raises(inversion_file.FileError, match=f"its {kind} has a scale"):
        inversion_file.load(scaled)


def test_an_embedding_saved_before_there_were_kinds_is_a_value_embedding(tmp_path: Path) -> None:
    path, first, walked = tmp_path / "cat.safetensors", embedding(), trajectory()
    inversion_file.save(path, walked, first)
    old = {"guidance": 7.5, "prompt": "a cat", "fingerprint": "f" * 16}
    back = inversion_file.load(rewritten(path, content={"embedding": old}))[1]
    assert back is not None and back.kind == "value embedding"
    assert same(back, replace(first, ends=walked.latents[[0, 3]]))


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


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with other metadata, content or tensors, and without a checksum, as old ones."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksum"]
    content = json.loads(metadata["content"])
    content.update(changes.get("content", {}))
    metadata.update(changes.get("metadata", {}), content=json.dumps(content))
    tensors = {**load_file(path), **changes.get("tensors", {})}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata)
    return path


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


def test_conditioning_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    own = replace(trajectory(), positive=[(torch.zeros(1, 77, 8), {"control": object()})])
    with pytest.raises(
        inversion_file.FileError, match="positive conditioning holds 'control', a object"
    ):
        inversion_file.save(tmp_path / "cat.safetensors", own, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value", "kind"), [
    ("control", "x", "str"), ("hooks", None, "NoneType"), ("area", torch.zeros(4), "Tensor"),
    ("width", object(), "object"), ("pooled_output", [1.0], "list"),
])
def test_what_no_prompt_has_beside_it_and_what_no_file_holds_cannot_be_saved(
    tmp_path: Path, name: str, value: Any, kind: str
) -> None:
    own = replace(trajectory(), negative=[(torch.zeros(1, 77, 8), {name: value})])
    with pytest.raises(
        inversion_file.FileError, match=f"the negative .* holds '{name}', a {kind}, which"
    ):
        inversion_file.save(tmp_path / "cat.safetensors", own, None)
    assert not list(tmp_path.iterdir())


NAN, INF = torch.nan, torch.inf


def not_finite(part: str) -> tuple[data.Trajectory, data.ValueEmbedding]:
    """An inversion with one wrong number in one of its parts."""
    one, other = trajectory(), embedding()
    if part == "trajectory.latents":
        one.latents[1, 2, 3, 4] = NAN
    elif part == "positive.0":
        one.positive[0][0][0, 76, 7] = -INF
    elif part == "positive.0.pooled_output":
        one.positive[0][1]["pooled_output"][0, 4] = NAN
    elif part == "negative.0.width":
        one.negative[0][1]["width"] = NAN
    elif part == "embedding.shift":
        other.shift[2, 0, 0] = INF
    elif part == "embedding.guidance":
        other = replace(other, guidance=NAN)
    elif part == "embedding.losses":
        other = replace(other, losses=(data.InnerLoss(0, 0, NAN, 0.25),))
    return one, other


@pytest.mark.parametrize("part", [
    "trajectory.latents", "positive.0", "positive.0.pooled_output", "negative.0.width",
    "embedding.shift", "embedding.guidance", "embedding.losses",
])
def test_numbers_that_are_not_finite_are_named_and_nothing_is_written(
    saved: Path, part: str
) -> None:
    before = saved.read_bytes()
    with pytest.raises(
        inversion_file.FileError, match=f"nothing was saved, since {part} of the .*fp32"
    ):
        inversion_file.save(saved, *not_finite(part))
    with pytest.raises(inversion_file.FileError, match="nothing was saved"):
        inversion_file.save(saved.with_name("new.safetensors"), *not_finite(part))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["cat.safetensors"]
