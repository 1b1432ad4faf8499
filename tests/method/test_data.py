"""Which layers supervise learning, and which embedding belongs to which trajectory."""

from dataclasses import replace

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import data, schedule
from stylediffusion_pack.stylediffusion.method.layers import AttentionLayer, supervising_layers


def layers(*grids: tuple[str, int, int]) -> tuple[AttentionLayer, ...]:
    """Layers of these blocks, heights and widths, in the order of a UNet."""
    return tuple(AttentionLayer(block, i, 0, h, w) for i, (block, h, w) in enumerate(grids))


def chosen(found: tuple[AttentionLayer, ...]) -> list[int]:
    return [layer.number for layer in found]


def test_encoder_and_decoder_layers_at_a_quarter_of_the_latent_supervise() -> None:
    unet = layers(("input", 64, 64), ("input", 32, 32), ("input", 16, 16), ("middle", 16, 16),
                  ("output", 16, 16), ("output", 32, 32), ("output", 16, 16))
    assert chosen(supervising_layers(unet, 64, 64)) == [2, 4, 6]
    assert chosen(supervising_layers(unet, 128, 128)) == [1, 5]


@pytest.mark.parametrize(("height", "width"), [(65, 97), (66, 98), (67, 99), (68, 100)])
def test_a_quarter_of_an_odd_size_is_rounded_up_as_the_unet_does(height: int, width: int) -> None:
    """Two halvings that round up: 65 becomes 33, then 17; 97 becomes 49, then 25."""
    unet = layers(("input", 16, 24), ("input", 17, 24), ("input", 16, 25), ("input", 17, 25),
                  ("output", 18, 25), ("output", 25, 17), ("output", 17, 25))
    assert chosen(supervising_layers(unet, height, width)) == [3, 6]


def test_without_a_quarter_the_grid_nearest_to_sixteen_times_sixteen_supervises() -> None:
    unet = layers(("input", 64, 64), ("input", 8, 8), ("middle", 16, 16), ("output", 24, 24),
                  ("output", 8, 8), ("output", 24, 24))
    # 24 * 24 cells are 2.25 times 256, and 256 is 4 times 8 * 8
    assert chosen(supervising_layers(unet, 192, 192)) == [3, 5]
    few = layers(("input", 32, 32), ("input", 12, 12), ("output", 64, 64))
    assert chosen(supervising_layers(few, 400, 400)) == [1], "12 * 12 is nearer than 32 * 32"


@pytest.mark.parametrize(("first", "second", "nearest"), [
    ((15, 16), (16, 17), 1),  # 272 / 256 = 1.0625, 256 / 240 = 1.0667
    ((11, 23), (13, 20), 0),  # 260 / 256 = 1.0156, 256 / 253 = 1.0119
])
def test_nearest_is_by_ratio_to_exactly_256_cells(
    first: tuple[int, int], second: tuple[int, int], nearest: int
) -> None:
    unet = layers(("input", *first), ("output", *second))
    assert chosen(supervising_layers(unet, 8, 8)) == [nearest]


def test_the_middle_alone_supervises_nothing() -> None:
    assert supervising_layers(layers(("middle", 16, 16)), 64, 64) == ()
    assert supervising_layers((), 64, 64) == ()


def trajectory() -> data.Trajectory:
    levels = schedule.Levels(torch.tensor([1, 501]), torch.tensor([0.9, 0.5, 0.1]).double())
    latents = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 2, 2)
    return data.Trajectory(latents, levels, "a cat", "", [], [], (), "")


def test_sampling_starts_at_the_last_latent_of_a_trajectory() -> None:
    made = trajectory()
    assert made.steps == 2
    assert torch.equal(made.noise, torch.full((1, 4, 2, 2), 2.0))


def embedding(kind: str, steps: int = 2) -> data.Embedding:
    table, origin = torch.zeros(steps, 77, 8), {"guidance": 7.5, "prompt": "a cat"}
    if kind == data.VALUE_EMBEDDING:
        return data.ValueEmbedding(table, table, **origin, fingerprint="")
    return data.PromptEmbedding(table, data.PROMPT_BRANCHES[kind], **origin, fingerprint="")


@pytest.mark.parametrize(("kind", "node"), [
    ("value embedding", "Learn Value Embedding"), ("null text", "Learn Prompt Embedding"),
    ("text embedding", "Learn Prompt Embedding"),
])
def test_an_embedding_of_another_trajectory_names_the_node_to_run(kind: str, node: str) -> None:
    own = embedding(kind)
    data.require_own_embedding(trajectory(), own)
    with pytest.raises(ValueError, match=f"^the {kind} was learnt over 3 steps, .* 2; run {node}"):
        data.require_own_embedding(trajectory(), embedding(kind, 3))
    other = f"^the {kind} was learnt for the prompt 'a dog', .* with 'a cat'; run {node}"
    with pytest.raises(ValueError, match=other):
        data.require_own_embedding(trajectory(), replace(own, prompt="a dog"))


def test_an_embedding_of_another_picture_with_the_same_prompt_is_refused() -> None:
    made = trajectory()
    noise = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    other = replace(made, latents=noise)
    own = replace(embedding("value embedding"), ends=torch.stack([noise[0], noise[2]]))
    data.require_own_embedding(other, own)
    rounded = replace(own, ends=torch.stack([noise[0], noise[2]]) * 1.01)
    data.require_own_embedding(other, rounded)
    with pytest.raises(ValueError, match="was learnt for another picture, .*run Learn Value Emb"):
        data.require_own_embedding(replace(made, latents=noise.flip(-1)), own)
    with pytest.raises(ValueError, match="was learnt for another picture"):
        data.require_own_embedding(replace(made, latents=noise[..., :1]), own)


def test_an_embedding_of_another_walk_of_the_picture_is_a_warning(
    caplog: pytest.LogCaptureFixture
) -> None:
    noise = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    own = replace(embedding("null text"), ends=noise[[0, 2]])
    data.require_own_embedding(replace(trajectory(), latents=noise), own)
    assert not caplog.text
    other = torch.cat([noise[:2], noise[2:] + 0.1])
    data.require_own_embedding(replace(trajectory(), latents=other), own)
    assert "null text was learnt on another inversion of the same picture" in caplog.text


def test_the_loss_that_was_minimised_is_the_sum_of_both() -> None:
    assert data.InnerLoss(step=0, inner=0, latent=0.5, attention=0.25).total == 0.75


@pytest.mark.parametrize(("found", "wanted", "off"), [
    ([3.0, 4.5], [3.0, 4.0], 0.1), ([0.3, 0.4], [0.0, 0.0], 0.5e12), ([2.0, 0.0], [1.0, 0.0], 1.0)])
def test_a_relative_difference_is_the_distance_over_the_length_of_what_was_wanted(
    found: list[float], wanted: list[float], off: float
) -> None:
    assert data.relative_difference(torch.tensor(found), torch.tensor(wanted)) == pytest.approx(
        off, rel=1e-5)
