"""Inversions in files: what is saved comes back, and nothing else gets in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from stylediffusion_pack.stylediffusion.method import data, schedule
from stylediffusion_pack.stylediffusion.method.layers import AttentionLayer
from stylediffusion_pack.stylediffusion.storage import inversion_file

from tests.storage.inversions import STEPS, embedding, prompt_embedding, rewritten, same, trajectory


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
    first = replace(trajectory(), levels=levels, latents=torch.randn(2, 1, 1, 1),
                    layers=(AttentionLayer("input", 4, 0, 1, 1),))
    inversion_file.save(path, first, None)
    assert same(inversion_file.load(path)[0], first)


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
