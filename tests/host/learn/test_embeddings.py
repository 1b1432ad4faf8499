"""`embedding:` tokens in prompts: files of several vectors, as the host reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host import text_encoder
from stylediffusion_pack.stylediffusion.host.edit import controller, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.method import data, local_blend, prompt_to_prompt

WINDOWS = {name: prompt_to_prompt.Window(0.0, 0.5) for name in ("tau_v", "tau_c", "tau_s", "tau_u")}
SOURCE = "a painting of a brown cat"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The demo model's CLIP with two embeddings of three vectors and one of one in its folder."""
    folder = tmp_path_factory.mktemp("embeddings")
    with torch.inference_mode():
        made = loading.load_clip()
        width = text_encoder.encode(made, "a")[0][0].shape[-1]
        generator = torch.Generator().manual_seed(2)
        for name, count in (("fur", 3), ("wool", 3), ("dot", 1)):
            vectors = torch.randn(count, width, generator=generator)
            save_file({"emb_params": vectors}, Path(folder) / f"{name}.safetensors")
        made.tokenizer.clip_l.embedding_directory = str(folder)
        yield made


@pytest.mark.parametrize(("prompt", "words"), [
    ("a embedding:fur cat", [("a", (1,)), ("embedding:fur", (2, 3, 4)), ("cat", (5,))]),
    ("embedding:dot cat", [("embedding:dot", (1,)), ("cat", (2,))]),
    ("a embedding: fur cat", [("a", (1,)), ("embedding:fur", (2, 3, 4)), ("cat", (5,))]),
    ("embedding:  fur cat", [("embedding:fur", (1, 2, 3)), ("cat", (4,))]),
    ("a embedding:fur, cat", [("a", (1,)), ("embedding:fur,", (2, 3, 4, 5)), ("cat", (6,))]),
    ("a (embedding:fur:1.3) cat", [("a", (1,)), ("embedding:fur", (2, 3, 4)), ("cat", (5,))]),
    ("a embedding:fur embedding:wool",
     [("a", (1,)), ("embedding:fur", (2, 3, 4)), ("embedding:wool", (5, 6, 7))]),
    ("a embedding:missing cat", [("a", (1,)), ("cat", (2,))]),
])
def test_an_embedding_is_a_word_of_all_its_vectors(
    clip: Any, prompt: str, words: list[tuple[str, tuple[int, ...]]]
) -> None:
    assert [(w.text, w.positions) for w in text_encoder.tokenize(clip, prompt).words] == words


def made(clip: Any, targets: str, source: str = SOURCE, **wishes: str) -> prompt_to_prompt.Control:
    levels = inversion.make_levels(4, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    trajectory = data.Trajectory(
        torch.zeros(5, 4, 16, 16), levels, source, "", [], [], (), "0" * 16)
    return controller.make_control(
        clip, trajectory, targets, "auto", WINDOWS, controller.WordOptions(**wishes))


def test_an_embedding_in_a_words_place_shares_its_map_and_the_rest_moves_along(clip: Any) -> None:
    (target,) = made(clip, "a painting of a embedding:fur cat").targets
    mapper = target.alignment.mapper
    assert target.mode == "replace"
    assert mapper[5, 5:8].tolist() == pytest.approx([1 / 3] * 3)
    assert mapper[6, 8] == 1 and mapper[7, 9] == 1 and mapper[:, 8].sum() == 1


def test_the_same_embedding_in_both_prompts_is_aligned_and_another_is_new(clip: Any) -> None:
    same, other = made(
        clip, "a big embedding:fur cat\na big embedding:wool cat", "a embedding:fur cat").targets
    assert same.mode == other.mode == "refine"
    assert same.alignment.aligned[:8].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
    assert torch.equal(same.alignment.mapper[2:5, 3:6], torch.eye(3))
    assert other.alignment.aligned[:8].tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


def test_an_embedding_can_be_named_in_every_wish(clip: Any) -> None:
    (target,) = made(
        clip, "a painting of a embedding:fur cat", blend_words="embedding:fur, brown",
        subtract_words="embedding:fur", emphasis="embedding:fur: 1.5",
        windows="embedding:fur: 0-0.4").targets
    assert target.blend is not None and target.subtract is not None
    assert target.blend.source.nonzero().flatten().tolist() == [5]
    assert target.blend.target.nonzero().flatten().tolist() == [5, 6, 7]
    assert target.emphasis is not None and target.emphasis[5:8].tolist() == [1.5] * 3
    assert target.word_windows == (
        prompt_to_prompt.WordWindow((5, 6, 7), prompt_to_prompt.Window(0.0, 0.4)),
    )


def test_an_edit_with_an_embedding_is_painted_and_differs_by_the_embedding(clip: Any) -> None:
    with torch.inference_mode():
        model = loading.load_model()
        latent = {"samples": torch.randn(
            1, 4, 16, 16, generator=torch.Generator().manual_seed(1))}
        trajectory = inversion.invert_latent(model, clip, latent, SOURCE, "", 2)
        edits = controller.make_control(
            clip, trajectory, "a painting of a embedding:fur cat\n"
            "a painting of a embedding:wool cat", "auto", WINDOWS,
            controller.WordOptions(blend_words="cat"), local_blend.Blend(threshold=0.0))
        samples = sampling.sample_edits(Edit(model, trajectory, None, edits, 5.0))["samples"]
    assert torch.isfinite(samples).all()
    assert (samples[1] - samples[2]).norm() > 1e-3 * samples[1].norm()
    assert (samples[1] - samples[0]).norm() > 1e-3 * samples[0].norm()
