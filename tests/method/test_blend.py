"""Local blend's masks, written out by hand."""

import pytest
import torch
from stylediffusion_pack.stylediffusion import blend

HEAT = torch.tensor([[0.0, 0, 0, 0], [0, 10, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]])[None, None]


def test_a_mask_is_the_share_of_the_maximum_above_the_threshold() -> None:
    mask = blend.word_mask(HEAT, 4, 4, 0.1)
    assert mask[0, 0].nonzero().tolist() == [[1, 1], [2, 3]]
    assert blend.word_mask(HEAT, 4, 4, 0.2)[0, 0].nonzero().tolist() == [[1, 1]], "strictly above"


def test_pooling_spreads_a_cell_to_its_neighbours() -> None:
    mask = blend.word_mask(HEAT, 4, 4, 0.5, 3)[0, 0]
    assert mask[:3, :3].all() and mask.sum() == 9


def test_the_latents_size_is_reached_by_nearest_neighbours() -> None:
    mask = blend.word_mask(HEAT, 8, 12, 0.5)[0, 0]
    assert mask.nonzero().tolist() == [[y, x] for y in (2, 3) for x in (3, 4, 5)]


def test_words_that_look_nowhere_cover_nothing() -> None:
    assert not blend.word_mask(torch.zeros(1, 2, 4, 4), 4, 4, 0.3).any()


def test_source_or_target_show_the_edit_and_subtract_words_hide_it() -> None:
    none, plain = torch.zeros(1, 1, 4, 4), blend.Blend(pooling=1)
    either = blend.blend_mask(torch.cat([none, HEAT], 1), None, 4, 4, plain)
    assert either.shape == (1, 1, 4, 4) and either[0, 0, 1, 1]
    hidden = blend.blend_mask(
        torch.cat([HEAT, HEAT], 1), torch.cat([none, HEAT], 1), 4, 4, blend.Blend())
    assert not hidden[0, 0, 1, 1] and hidden[0, 0, 0, 0], "subtract words are not pooled"


def test_blending_leaves_the_source_and_mixes_the_targets() -> None:
    latents = torch.tensor([1.0, 5.0, 9.0]).view(3, 1, 1, 1).expand(3, 2, 1, 2)
    mask = torch.tensor([[True, False], [False, True]]).view(2, 1, 1, 2)
    found = blend.blended(latents, mask)
    assert found[:, 0, 0].tolist() == [[1, 1], [5, 1], [1, 9]]


@pytest.mark.parametrize(("steps", "first"), [(5, 1), (30, 6), (4, 0)])
def test_the_blend_begins_at_a_fifth_of_the_steps_rounded_down(steps: int, first: int) -> None:
    held = [i for i in range(steps) if blend.Blend().holds(i, steps)]
    assert held == list(range(first, steps))
