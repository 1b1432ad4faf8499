"""Windows at their rounding, and value mixing against edited maps written out."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.control import (
    Window,
    injects_self_attention,
    mixed_values,
)


def held(name: str, window: Window, steps: int) -> list[int]:
    return [i for i in range(steps) if getattr(window, name)(i, steps)]


@pytest.mark.parametrize(("tau", "last"), [(0.0, -1), (0.5, 4), (0.55, 5), (1.0, 9)])
def test_the_value_window_ends_before_n_times_tau_without_rounding(tau: float, last: int) -> None:
    assert held("holds_value", Window(0, tau), 10) == list(range(last + 1))


@pytest.mark.parametrize(("tau", "count"), [(0.0, 0), (0.6, 6), (0.8, 8), (1.0, 10)])
def test_the_cross_window_rounds_tau_times_n_plus_one_down(tau: float, count: int) -> None:
    assert held("holds_cross", Window(0, tau), 10) == list(range(count))


def test_the_self_window_rounds_n_times_tau_down_at_both_ends() -> None:
    assert held("holds_self", Window(0.25, 0.66), 10) == [2, 3, 4, 5]


def test_self_attention_is_injected_by_factor_or_by_size() -> None:
    assert injects_self_attention(4096, 2) and injects_self_attention(1024, 1)
    assert not injects_self_attention(1025, 1)


def test_mixing_values_equals_editing_maps() -> None:
    torch.manual_seed(0)
    source, own = torch.rand(3, 9, 5).softmax(-1), torch.rand(3, 9, 5).softmax(-1)
    mapper, kept, v = torch.rand(3, 5, 5), torch.tensor([1.0, 0, 1, 0, 1]).expand(3, 5), \
        torch.rand(3, 5, 4)
    edited = source @ mapper * kept[:, None] + own * (1 - kept[:, None])
    first, second = mixed_values(v, mapper, kept)
    assert torch.allclose(source @ first + own @ second, edited @ v, atol=1e-6)
