"""Windows at their rounding, and the weights of tokens inside and outside of them."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method.alignment import Alignment
from stylediffusion_pack.stylediffusion.method.prompt_to_prompt import (
    Control,
    Target,
    Window,
    WordMasks,
    WordWindow,
    injects_self_attention,
    once,
)


def held(name: str, window: Window, steps: int) -> list[int]:
    return [i for i in range(steps) if getattr(window, name)(i, steps)]


@pytest.mark.parametrize(("tau", "last"), [(0.0, -1), (0.5, 4), (0.55, 5), (1.0, 9)])
def test_the_value_window_ends_before_n_times_tau_without_rounding(tau: float, last: int) -> None:
    assert held("holds_value", Window(0, tau), 10) == list(range(last + 1))


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.2, 2), (0.25, 3), (0.99, 10)])
def test_the_value_window_begins_at_n_times_its_start_without_rounding(
    start: float, first: int
) -> None:
    assert held("holds_value", Window(start, 1), 10) == list(range(first, 10))


@pytest.mark.parametrize(("tau", "count"), [(0.0, 0), (0.6, 6), (0.8, 8), (1.0, 10)])
def test_the_cross_window_rounds_tau_times_n_plus_one_down(tau: float, count: int) -> None:
    assert held("holds_cross", Window(0, tau), 10) == list(range(count))


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.2, 2), (0.25, 2), (0.99, 10)])
def test_the_cross_window_rounds_its_start_times_n_plus_one_down(start: float, first: int) -> None:
    assert held("holds_cross", Window(start, 1), 10) == list(range(first, 10))


def test_the_self_window_rounds_n_times_tau_down_at_both_ends() -> None:
    assert held("holds_self", Window(0.25, 0.66), 10) == [2, 3, 4, 5]


@pytest.mark.parametrize(("tau", "steps", "value", "cross", "layout"), [
    (0.29, 100, 29, 29, 28), (0.29, 99, 29, 28, 28), (0.57, 100, 57, 57, 56),
    (0.07, 100, 8, 7, 7), (0.6, 4, 3, 3, 2), (0.1, 10, 1, 1, 1), (0.3, 10, 3, 3, 3),
    (0.25, 4, 1, 1, 1), (0.26, 4, 2, 1, 1), (0.01, 30, 1, 0, 0), (0.99, 30, 30, 30, 29),
])
def test_floating_point_products_are_rounded_as_written(
    tau: float, steps: int, value: int, cross: int, layout: int
) -> None:
    """Steps held: 0.29 * 100 is 28.999999999999996 and 0.07 * 100 is 7.000000000000001."""
    found = [len(held(name, Window(0, tau), steps))
             for name in ("holds_value", "holds_cross", "holds_self")]
    assert found == [value, cross, layout]


def test_self_attention_is_injected_by_factor_or_by_size() -> None:
    assert injects_self_attention(4096, 64, 128) and injects_self_attention(1024, 32, 32)
    assert not injects_self_attention(1025, 41, 41)


@pytest.mark.parametrize("full", range(2, 200))
def test_every_halved_grid_is_injected_at_odd_widths_too(full: int) -> None:
    """The UNet halves with a convolution of width 3, padding 1 and stride 2."""
    half = (full + 2 - 3) // 2 + 1
    assert injects_self_attention(2000, half, full)
    assert not injects_self_attention(2000, full, full)


def target(aligned: list[float], **wishes: Any) -> Target:
    kept = torch.tensor(aligned)
    return Target("", "", [], Alignment(torch.eye(len(aligned)), kept), **wishes)


def test_weights_of_an_aligned_and_a_new_token_inside_and_outside_the_window() -> None:
    first, second = Control(
        "", (target([1.0, 0.0]),), *[Window(0, 0.5)] * 4).weights(4)
    # int(0.5 * 5) = 2 of the 4 steps lie inside
    assert first[:, 0].tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert second[:, 0].tolist() == [[0, 1], [0, 1], [1, 1], [1, 1]]


def test_emphasis_weighs_old_and_new_tokens_alike_and_only_inside_the_window() -> None:
    loud = target([1.0, 0.0], emphasis=torch.tensor([2.0, 3.0]))
    first, second = loud.weights(Window(0, 0.5), 1, 4)
    assert (first.tolist(), second.tolist()) == ([2, 0], [0, 3])
    first, second = loud.weights(Window(0, 0.5), 2, 4)
    assert (first.tolist(), second.tolist()) == ([0, 0], [1, 1])


def test_a_words_own_window_stands_in_for_tau_c() -> None:
    own = target([1.0, 1.0], word_windows=(WordWindow((1,), Window(0.5, 1)),))
    found = [own.weights(Window(0, 0.4), step, 4)[0].tolist() for step in range(4)]
    # tau_c holds steps 0..1, the word's window steps 2..3 (int(.5 * 5) = 2, int(1 * 5) = 5)
    assert found == [[1, 0], [1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize(("targets", "blends", "word_targets"), [
    ("", False, []), ("-", False, []), ("w", True, [0]), ("m", True, []), ("b", True, []),
    ("-w", True, [1]), ("-m", True, []), ("wbw-", True, [0, 2]),
])
def test_an_edit_is_kept_to_a_place_by_words_or_by_a_mask_which_goes_before_words(
    targets: str, blends: bool, word_targets: list[int]
) -> None:
    """w: words, m: a painted mask, b: both, -: neither."""
    words = WordMasks(torch.ones(77), torch.ones(77))
    same, window = Alignment(torch.eye(77), torch.ones(77)), Window(0, 1)
    made = tuple(Target(
        "", "", [], same, blend=words if sign in "wb" else None,
        mask=torch.ones(2, 2) if sign in "mb" else None) for sign in targets)
    control = Control("", made, window, window, window, window)
    assert control.blends is blends and control.word_targets == word_targets
    assert control.reads_words is bool(word_targets)


def test_tokens_reach_their_first_repeat_alone() -> None:
    assert once(torch.tensor([[1.0, 2.0, 3.0]] * 2), 6).tolist() == [[1, 2, 3, 0, 0, 0]] * 2
