"""Local blend's masks, written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from stylediffusion_pack.stylediffusion.method import local_blend

HEAT = torch.tensor([[0.0, 0, 0, 0], [0, 10, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]])[None, None]


def test_a_mask_is_the_share_of_the_maximum_above_the_threshold() -> None:
    mask = local_blend.word_mask(HEAT, 4, 4, 0.1)
    assert mask[0, 0].nonzero().tolist() == [[1, 1], [2, 3]]
    assert local_blend.word_mask(HEAT, 4, 4, 0.2)[0, 0].nonzero().tolist() == [[1, 1]], (
        "strictly above"
    )


def test_pooling_spreads_a_cell_to_its_neighbours() -> None:
    mask = local_blend.word_mask(HEAT, 4, 4, 0.5, 3)[0, 0]
    assert mask[:3, :3].all() and mask.sum() == 9
    wide = local_blend.word_mask(F.pad(HEAT, (3, 2, 3, 2)), 9, 9, 0.5, 5)[0, 0]
    assert wide[2:7, 2:7].all() and wide.sum() == 25, "two cells to every side of the strongest"


def test_the_latents_size_is_reached_by_nearest_neighbours() -> None:
    mask = local_blend.word_mask(HEAT, 8, 12, 0.5)[0, 0]
    assert mask.nonzero().tolist() == [[y, x] for y in (2, 3) for x in (3, 4, 5)]


def test_words_that_look_nowhere_cover_nothing() -> None:
    assert not local_blend.word_mask(torch.zeros(1, 2, 4, 4), 4, 4, 0.3).any()
    soft = local_blend.word_mask(torch.zeros(1, 2, 4, 4), 4, 4, 0.3, softness=0.5)
    assert torch.equal(soft, torch.zeros(1, 2, 4, 4))


def test_source_or_target_show_the_edit_and_subtract_words_hide_it() -> None:
    none, plain = torch.zeros(1, 1, 4, 4), local_blend.Blend(pooling=1)
    either = local_blend.blend_mask(torch.cat([none, HEAT], 1), None, 4, 4, plain)
    assert either.shape == (1, 1, 4, 4) and either[0, 0, 1, 1]
    hidden = local_blend.blend_mask(
        torch.cat([HEAT, HEAT], 1), torch.cat([none, HEAT], 1), 4, 4, local_blend.Blend())
    assert not hidden[0, 0, 1, 1] and hidden[0, 0, 0, 0], "subtract words are not pooled"
    assert hidden.dtype == torch.bool, "edges are hard unless a person asks"


def test_every_edit_has_a_mask_of_its_own() -> None:
    none, plain = torch.zeros(1, 1, 4, 4), local_blend.Blend(pooling=1)
    heat = torch.cat([torch.cat([HEAT, none], 1), torch.cat([none, HEAT.flip(-1)], 1)])
    away = torch.cat([torch.cat([none, HEAT], 1), torch.cat([none, none], 1)])
    found = local_blend.blend_mask(heat, away, 4, 4, plain)
    assert found.shape == (2, 1, 4, 4)
    assert not found[0].any() and found[1, 0].nonzero().tolist() == [[1, 2]]


def test_blending_leaves_the_source_and_mixes_the_targets() -> None:
    latents = torch.tensor([1.0, 5.0, 9.0]).view(3, 1, 1, 1).expand(3, 2, 1, 2)
    mask = torch.tensor([[True, False], [False, True]]).view(2, 1, 1, 2)
    found = local_blend.blended(latents, mask)
    assert found[:, 0, 0].tolist() == [[1, 1], [5, 1], [1, 9]]


@pytest.mark.parametrize(("steps", "first"), [(5, 1), (30, 6), (4, 0)])
def test_the_blend_begins_at_a_fifth_of_the_steps_rounded_down(steps: int, first: int) -> None:
    held = [i for i in range(steps) if local_blend.Blend().holds(i, steps)]
    assert held == list(range(first, steps))


def test_a_soft_edge_rises_from_below_the_threshold_to_above_it() -> None:
    """Softness .4 around .5: nothing up to .5 * .6 = .3, all from .3 + .4 = .7, half at .5."""
    heat = torch.tensor([1.0, 0.7, 0.5, 0.4, 0.3, 0.1]).view(1, 1, 1, 6)
    mask = local_blend.word_mask(heat, 1, 6, 0.5, softness=0.4)
    assert mask.flatten().tolist() == pytest.approx([1, 1, 0.5, 0.25, 0, 0], abs=1e-6)


def test_a_soft_mask_is_brought_to_the_latents_size_between_the_cells_middles() -> None:
    """Two cells 1 and 0 on four: their middles lie a quarter and three quarters of the way."""
    mask = local_blend.word_mask(torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), 1, 4, 0.5, softness=1.0)
    assert mask.flatten().tolist() == pytest.approx([1, 0.75, 0.25, 0])


@pytest.mark.parametrize("softness", [0.05, 0.5, 1.0])
def test_however_soft_a_place_no_word_looks_at_shows_nothing(softness: float) -> None:
    mask = local_blend.word_mask(HEAT, 4, 4, 0.3, softness=softness)
    assert mask[0, 0, 1, 1] == 1 and mask[0, 0, 3, 0] == 0


def test_a_soft_subtract_takes_its_share_away() -> None:
    soft = local_blend.Blend(threshold=0.5, pooling=1, softness=1.0)
    words = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    away = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    assert local_blend.blend_mask(words, away, 1, 2, soft).flatten().tolist() == [0.5, 0]


@pytest.mark.parametrize("pooling", [0, 2, -1])
def test_pooling_by_an_even_number_is_an_error_that_says_which(pooling: int) -> None:
    with pytest.raises(ValueError, match=f"blend_pooling is {pooling}, but must be an odd number"):
        local_blend.Blend(pooling=pooling)


def test_a_painted_mask_is_brought_to_the_latents_size_for_every_target() -> None:
    mask = torch.zeros(1, 32, 48)
    mask[:, :, 24:] = 1
    found = local_blend.painted_masks(mask, 2, 4, 6)
    assert found.shape == (2, 4, 6)
    assert (found[:, :, :2] == 0).all() and (found[:, :, 4:] == 1).all()
    assert torch.equal(found[0], found[1])


def test_of_a_painted_mask_a_thin_line_counts_and_nothing_counts_more_than_once() -> None:
    line = torch.zeros(1, 32, 48)
    line[:, :, 1] = 1
    assert (local_blend.painted_masks(line, 1, 4, 6)[:, :, 0] > 0.05).all()
    assert torch.equal(local_blend.painted_masks(torch.full((1, 32, 48), 1.5), 1, 4, 6),
                       torch.ones(1, 4, 6))


def test_a_painted_mask_a_target_stays_with_its_target() -> None:
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    assert local_blend.painted_masks(masks, 2, 4, 4).amax((1, 2)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="mask holds 2 masks, but the number of targets is 3"):
        local_blend.painted_masks(masks, 3, 4, 4)


@pytest.mark.parametrize(("size", "fits"), [
    ((128, 192), True), ((135, 199), True), ((64, 96), True), ((128, 128), False),
    ((192, 128), False), ((128, 216), False), ((136, 192), False), ((128, 200), False),
])
def test_a_painted_mask_has_the_pictures_shape_at_any_size(
    size: tuple[int, int], fits: bool
) -> None:
    """A picture of 192 x 128, or up to a cell more that the VAE crops, has 24 x 16 cells."""
    mask = torch.ones(1, *size)
    if fits:
        torch.testing.assert_close(
            local_blend.painted_masks(mask, 1, 16, 24), torch.ones(1, 16, 24)
        )
    else:
        sizes = f"the mask is {size[1]} x {size[0]} pixels, but .* another shape, 24 x 16 cells"
        with pytest.raises(ValueError, match=sizes):
            local_blend.painted_masks(mask, 1, 16, 24)
