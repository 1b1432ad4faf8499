"""Coordinates in which the value input's directions count alike, on grams with a known root."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method.preconditioner import (
    CHANNEL_DAMPING,
    TOKEN_DAMPING,
    channel_root,
    inverse_root,
    token_root,
    whitened_values,
)
from stylediffusion_pack.stylediffusion.method.value_embedding import PLAIN, SCALE_AND_SHIFT

WIDTH = 6


def gram(seed: int, size: int) -> torch.Tensor:
    """A^T A of a random A whose columns have very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(3 * size, size, generator=generator) * torch.logspace(-1, 1, size)
    return found.T @ found


def whitened(
    form: str, context: torch.Tensor, tokens: torch.Tensor, channels: torch.Tensor
) -> Any:
    """The coordinates that two grams give."""
    return whitened_values(form, context, token_root(tokens), channel_root(channels))


def test_the_inverse_root_squared_is_the_inverse_of_the_damped_gram() -> None:
    found = gram(0, 5).double()
    mean = found.trace() / 5
    wanted = torch.linalg.inv(found / mean + 0.1 * torch.eye(5))
    root = inverse_root(found.float(), 0.1)
    torch.testing.assert_close(root @ root, wanted.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(root, root.T)


def test_a_gram_and_its_multiples_give_the_same_coordinates() -> None:
    torch.testing.assert_close(inverse_root(gram(1, 5), 0.1), inverse_root(70 * gram(1, 5), 0.1))


@pytest.mark.parametrize("form", [SCALE_AND_SHIFT, PLAIN])
def test_at_the_start_the_value_path_hears_the_prompt_as_it_is(form: str) -> None:
    context = torch.randn(77, WIDTH, generator=torch.Generator().manual_seed(2))
    scale, shift = whitened(form, context, gram(3, 77), gram(4, WIDTH))(torch.zeros(77, WIDTH))
    torch.testing.assert_close(context * scale + shift, context)


def test_both_forms_add_the_same_change_and_scale_and_shift_is_the_smallest_that_does() -> None:
    generator = torch.Generator().manual_seed(5)
    context, point = (torch.randn(77, WIDTH, generator=generator) for _ in range(2))
    tokens, channels = gram(6, 77), gram(7, WIDTH)
    _, plain = whitened(PLAIN, context, tokens, channels)(point)
    scale, shift = whitened(SCALE_AND_SHIFT, context, tokens, channels)(point)
    torch.testing.assert_close(context * scale + shift, plain)
    # Of all (s, b) with the same c s + b those of least (s - 1)^2 + b^2 lie along (c, 1).
    torch.testing.assert_close(scale - 1, context * shift, rtol=1e-4, atol=1e-5)


def test_for_one_layer_steepest_descent_sees_a_round_problem() -> None:
    """|A delta W|^2 in the coordinates: what spread is left of its curvature is the damping."""
    generator = torch.Generator().manual_seed(8)
    looks = torch.softmax(2 * torch.randn(400, 77, generator=generator), -1)
    heard = torch.randn(WIDTH, 30, generator=generator) * torch.logspace(-1, 1, WIDTH)[:, None]
    grams = looks.T @ looks, heard @ heard.T
    tokens, channels = (inverse_root(g, d) for g, d in zip(
        grams, (TOKEN_DAMPING, CHANNEL_DAMPING), strict=True))

    def spread(left: torch.Tensor, right: torch.Tensor) -> float:
        first, second = (torch.linalg.eigvalsh(root @ g @ root) for root, g in
                         zip((left, right), grams, strict=True))
        return float(first.max() * second.max() / (first.min() * second.min()))

    assert spread(tokens, channels) < 10 < 1e3 < spread(torch.eye(77), torch.eye(WIDTH))


def written_root(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """(G / mean eigenvalue + damping)^(-1/2), through the square root of an inverse."""
    gram = gram.double() / (gram.double().trace() / len(gram))
    inverse = torch.linalg.inv(gram + damping * torch.eye(len(gram)))
    values, vectors = torch.linalg.eigh(inverse)
    return vectors @ values.sqrt().diag() @ vectors.T


def test_tokens_are_damped_by_their_own_damping_and_channels_by_theirs() -> None:
    generator = torch.Generator().manual_seed(9)
    context, point = (torch.randn(77, WIDTH, generator=generator) for _ in range(2))
    tokens, channels = gram(10, 77), gram(11, WIDTH)
    scale, shift = whitened(PLAIN, context, tokens, channels)(point)
    wanted = written_root(tokens, 1e-2) @ point.double() @ written_root(channels, 1e-3)
    assert not scale.any()
    torch.testing.assert_close(shift - context, wanted.float(), rtol=2e-3, atol=2e-3)


def test_where_there_is_no_fp64_the_root_is_taken_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CUDA device it stays there; a tensor that only says so is enough to see which."""
    class Elsewhere(torch.Tensor):
        place = "mps"

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device(self.place)

    copied: list[str] = []
    own = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (
        copied.append(getattr(self, "place", "cpu")), own(self).as_subclass(torch.Tensor))[1])
    given = gram(12, 5).as_subclass(Elsewhere)
    found = inverse_root(given, 0.1)
    assert set(copied) == {"mps"}
    torch.testing.assert_close(found, inverse_root(gram(12, 5), 0.1))
    Elsewhere.place = "cuda"
    del copied[:]
    inverse_root(given, 0.1)
    assert not copied
