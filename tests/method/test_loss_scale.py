"""Gradients through half precision: nothing is lost below its smallest number, none overflows."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.method.loss_scale import LossScale, gradients_of

LEAF = torch.linspace(0.5, 2, 7)


def through(dtype: torch.dtype, weight: float, scale: float) -> torch.Tensor:
    """d / dx of mean(weight * x^2) with the square taken in a precision."""
    leaf = LEAF.clone().requires_grad_(True)
    loss = weight * (leaf.to(dtype) ** 2).float().mean()
    return gradients_of(loss, [leaf], scale)[0]


@pytest.mark.parametrize("scale", [1.0, 2.0**12, 2.0**20])
def test_in_fp32_a_scale_changes_nothing(scale: float) -> None:
    torch.testing.assert_close(through(torch.float32, 3.0, scale), 6 * LEAF / 7)


def test_small_gradients_survive_half_precision() -> None:
    wanted = 2e-8 * LEAF / 7
    assert not through(torch.float16, 1e-8, 1.0).any(), "without a scale they are gone"
    torch.testing.assert_close(through(torch.float16, 1e-8, 2.0**20), wanted, rtol=2e-3, atol=0)


def test_a_scale_that_overflows_is_lowered_until_it_does_not() -> None:
    scale, tried = LossScale(), 0
    while not torch.isfinite(through(torch.float16, 1.0, scale.of(2.0**40))).all():
        assert scale.lower(2.0**40)
        tried += 1
    assert tried == scale.lowered == 6 and scale.of(2.0**40) == 2.0**16
    torch.testing.assert_close(
        through(torch.float16, 1.0, scale.of(2.0**40)), 2 * LEAF / 7, rtol=2e-3, atol=0)


def test_a_scale_stays_low_and_ends_at_one() -> None:
    scale = LossScale()
    assert not scale.lower(1.0) and scale.lowered == 0, "in fp32 nothing is to be lowered"
    assert [scale.lower(64.0) for _ in range(3)] == [True, True, False]
    assert scale.of(64.0) == 1.0 and scale.of(2.0**20) == 2.0**12


@pytest.mark.parametrize("scale", [1.0, 2.0**20])
def test_the_graph_is_freed_by_the_one_backward_pass(scale: float) -> None:
    leaf = LEAF.clone().requires_grad_(True)
    loss = (leaf**2).mean()
    gradients_of(loss, [leaf], scale)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
