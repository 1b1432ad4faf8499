"""The mapping networks' shapes and starts."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import value_embedding

BOTH, PLAIN = "scale and shift", "plain"


def test_a_network_makes_scale_and_shift_of_seventy_seven_rows() -> None:
    scale, shift = value_embedding.make_mapping(
        torch.randn(1, 77, 64), torch.randn(1, 197, 48), 0, BOTH)(torch.randn(1, 197, 48))
    assert scale.shape == shift.shape == (77, 64)


def test_a_network_in_the_plain_form_makes_the_value_input_itself() -> None:
    tokens, context = torch.randn(1, 197, 64), torch.randn(3, 77, 64)
    network = value_embedding.make_mapping(context[:1], tokens, 0, PLAIN)
    assert (
        isinstance(network, value_embedding.MappingNetwork) and len(network.conv_end.weight) == 77
    )
    hidden = network.conv_block(network.conv_start(tokens))
    made = torch.einsum("oi,bid->bod", network.conv_end.weight[..., 0], hidden)
    made = made + network.conv_end.bias[:, None]
    heard = value_embedding.value_input(context, *network(tokens))
    assert torch.allclose(heard, made.expand(3, 77, 64), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_the_authors_layers_with_the_statistics_of_the_one_image(
    training: bool
) -> None:
    tokens = torch.randn(1, 9, 48)
    network = value_embedding.MappingNetwork(9, 48, 64, 154).train(training)
    weights = network.state_dict()
    assert not [name for name in weights if "running" in name or "tracked" in name]
    x = tokens[0] @ weights["fit.weight"].T + weights["fit.bias"]
    for name in ("conv_start", "conv_block.0.0"):
        x = weights[f"{name}.weight"][..., 0] @ x + weights[f"{name}.bias"][:, None]
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    x = x * weights["conv_block.0.1.weight"][:, None] + weights["conv_block.0.1.bias"][:, None]
    x = torch.where(x < 0, 0.01 * x, x)
    x = weights["conv_end.weight"][..., 0] @ x + weights["conv_end.bias"][:, None]
    scale, shift = network(tokens)
    torch.testing.assert_close(torch.cat([scale, shift]), x, rtol=1e-4, atol=1e-5)


def test_a_seed_is_a_start() -> None:
    tokens, context = torch.randn(1, 9, 64), torch.randn(1, 77, 64)
    torch.manual_seed(5)
    first = value_embedding.make_mapping(context, tokens, 3, BOTH)(tokens)[0]
    torch.manual_seed(6)
    assert torch.equal(first, value_embedding.make_mapping(context, tokens, 3, BOTH)(tokens)[0])
    assert not torch.equal(first, value_embedding.make_mapping(context, tokens, 4, BOTH)(tokens)[0])


@pytest.mark.parametrize("form", [BOTH, PLAIN])
def test_without_an_image_learning_starts_at_the_prompt_itself(form: str) -> None:
    context = torch.randn(1, 77, 64)
    made = value_embedding.make_mapping(context, None, 0, form)
    assert torch.equal(value_embedding.value_input(context, *made(None)), context)


def test_an_unknown_form_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="form is 'square', but must be one of scale and shift, p"):
        value_embedding.make_mapping(torch.randn(1, 77, 64), None, 0, "square")


def test_every_chunk_of_a_long_prompt_hears_the_same_scale_and_shift() -> None:
    context, scale, shift = torch.randn(2, 154, 8), torch.randn(77, 8), torch.randn(77, 8)
    heard = value_embedding.value_input(context, scale, shift)
    for start in (0, 77):
        rows = context[:, start : start + 77]
        assert torch.equal(heard[:, start : start + 77], rows * scale + shift)


def test_a_successor_is_a_copy_and_not_the_same() -> None:
    made = value_embedding.make_mapping(torch.randn(1, 77, 64), None, 0, BOTH)
    after = value_embedding.successor(made)
    assert after is not made
    for own, copied in zip(made.parameters(), after.parameters(), strict=True):
        assert torch.equal(own, copied) and own is not copied


START = {  # first and last element, and the sum, of torch's default initialisation from seed 3
    "fit.weight": (-0.1431068, 0.0973566, 1.70341),
    "conv_start.weight": (-0.1027975, 0.2985658, -14.07863),
    "conv_start.bias": (-0.2504631, 0.135545, -3.91645),
    "conv_block.0.0.weight": (-0.0804434, 0.0447011, 4.07271),
    "conv_end.weight": (0.0387552, -0.0186256, -13.0242),
    "conv_end.bias": (0.0448488, -0.0516482, 0.36968),
}


def test_the_start_of_a_seed_is_the_recorded_one() -> None:
    made = value_embedding.make_mapping(torch.zeros(1, 77, 64), torch.zeros(1, 9, 48), 3, BOTH)
    found = made.state_dict()
    for name, (first, last, total) in START.items():
        flat = found[name].flatten().double()
        assert float(flat[0]) == pytest.approx(first, abs=1e-7), name
        assert float(flat[-1]) == pytest.approx(last, abs=1e-7), name
        assert float(flat.sum()) == pytest.approx(total, abs=1e-4), name


def test_a_network_is_made_without_touching_anybodys_random_numbers(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.manual_seed would seed every GPU as well, and nothing would put that back."""
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_: pytest.fail("a GPU was seeded"))
    monkeypatch.setattr(torch, "manual_seed", lambda *_: pytest.fail("everything was seeded"))
    before = torch.random.get_rng_state()
    value_embedding.make_mapping(torch.zeros(1, 77, 64), torch.zeros(1, 9, 48), 3, BOTH)
    assert torch.equal(torch.random.get_rng_state(), before)
