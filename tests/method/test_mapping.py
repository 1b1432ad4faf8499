"""The mapping networks' shapes and starts."""

import torch
from stylediffusion_pack.stylediffusion import mapping


def test_a_network_makes_scale_and_shift_of_seventy_seven_rows() -> None:
    scale, shift = mapping.make_mapping(64, torch.randn(1, 197, 48), 0)(
        torch.randn(1, 197, 48))
    assert scale.shape == shift.shape == (77, 64)


def test_a_seed_is_a_start() -> None:
    tokens = torch.randn(1, 9, 64)
    torch.manual_seed(5)
    first = mapping.make_mapping(64, tokens, 3)(tokens)[0]
    torch.manual_seed(6)
    assert torch.equal(first, mapping.make_mapping(64, tokens, 3)(tokens)[0])
    assert not torch.equal(first, mapping.make_mapping(64, tokens, 4)(tokens)[0])


def test_free_scale_and_shift_start_at_the_prompt_itself() -> None:
    context = torch.randn(1, 77, 64)
    made = mapping.make_mapping(64, None, 0)
    assert torch.equal(mapping.value_input(context, *made(None)), context)


def test_every_chunk_of_a_long_prompt_hears_the_same_scale_and_shift() -> None:
    context, scale, shift = torch.randn(2, 154, 8), torch.randn(77, 8), torch.randn(77, 8)
    heard = mapping.value_input(context, scale, shift)
    for start in (0, 77):
        rows = context[:, start : start + 77]
        assert torch.equal(heard[:, start : start + 77], rows * scale + shift)


def test_a_successor_is_a_copy_and_not_the_same() -> None:
    made = mapping.make_mapping(64, None, 0)
    after = mapping.successor(made)
    assert after is not made
    for own, copied in zip(made.parameters(), after.parameters(), strict=True):
        assert torch.equal(own, copied) and own is not copied
