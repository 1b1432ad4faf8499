"""Patches of other nodes that write in place: learnt through as if they did not."""

from typing import Any

import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from stylediffusion_pack.stylediffusion.host.autograd import foreign
from stylediffusion_pack.stylediffusion.host.autograd.checkpoints import Checkpoints
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel

from tests import families, golden, stage

SIZE = 16, 24


def brighten(h: torch.Tensor, in_place: bool) -> torch.Tensor:
    """Half of the channels times 1 + the mean's sigmoid, then some tanh: autograd keeps it all."""
    half, mean = h.shape[-1 if h.ndim == 3 else 1] // 2, torch.sigmoid(h.mean())
    if in_place:
        first = h[..., :half] if h.ndim == 3 else h[:, :half]
        first *= 1 + mean
        h += 0.1 * torch.tanh(h)
        return h
    dim = -1 if h.ndim == 3 else 1
    first, second = h.narrow(dim, 0, half), h.narrow(dim, half, h.shape[dim] - half)
    h = torch.cat([first * (1 + mean), second], dim)
    return h + 0.1 * torch.tanh(h)


def on_skips(model: Any, in_place: bool) -> None:
    model.set_model_output_block_patch(
        lambda h, hsp, options: (brighten(h, in_place), brighten(hsp, in_place)))


def on_middle(model: Any, in_place: bool) -> None:
    model.set_model_patch(
        lambda given: {**given, "h": brighten(given["h"], in_place)}, "middle_block_after_patch")


def on_input(model: Any, in_place: bool) -> None:
    model.set_model_input_block_patch(lambda h, options: brighten(h, in_place))


def on_attention(model: Any, in_place: bool) -> None:
    model.set_model_attn1_output_patch(lambda n, options: brighten(n, in_place))
    model.set_model_patch(lambda x, options: brighten(x, in_place), "middle_patch")


def on_prompts(model: Any, in_place: bool) -> None:
    model.set_model_attn2_patch(
        lambda n, context, value, options: (brighten(n, in_place), context, value))


PATCHES = [on_skips, on_middle, on_input, on_attention, on_prompts]


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_that_writes_in_place_is_learnt_through_as_if_it_did_not(patch: Any) -> None:
    def work(model: HostLearningModel, latent: torch.Tensor) -> Any:
        wanted = stage.wanted_maps(model, latent)
        found = []
        for each in Checkpoints:
            model.checkpoints = each
            found.append(stage.inner_step(model, latent, wanted))
        return found

    with torch.inference_mode():
        found = {}
        for in_place in (True, False, None):
            model = families.load("sd15")
            if in_place is not None:
                patch(model, in_place)
            found[in_place] = stage.with_learning_model(model, "sd15", SIZE, work)
    loss, gradients = found[False][0]
    assert loss != pytest.approx(found[None][0][0], rel=1e-4), "the patch does something"
    for other_loss, others in found[True]:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        for mine, other in zip(others, gradients, strict=True):
            assert golden.relative(mine, other) < 1e-5


def test_freeu_v2_is_learnt_through() -> None:
    def work(model: HostLearningModel, latent: torch.Tensor) -> Any:
        with torch.no_grad():
            scale, shift = stage.values(latent)
            direction = torch.randn(77, 64, generator=torch.Generator().manual_seed(5)).to(latent)
            ends = [model.noise_with(latent, stage.LEVEL, scale, shift + step * direction, False)[0]
                    for step in (-1e-2, 1e-2)]
            slope = (ends[1].square().mean() - ends[0].square().mean()) / 2e-2
        found = stage.inner_step(model, latent, [])[1][1]
        return float(slope), float((found * direction).sum())

    with torch.inference_mode():
        model = FreeU_V2.execute(families.load("sd15"), 1.3, 1.4, 0.9, 0.2).result[0]
        slope, found = stage.with_learning_model(model, "sd15", SIZE, work)
    assert found == pytest.approx(slope, rel=2e-2) and abs(slope) > 1e-5


def test_what_patches_draw_while_learning_is_always_the_same_and_moves_no_other_draw() -> None:
    model, cpu = families.load("sd15"), torch.device("cpu")
    on_input(model, False)
    torch.manual_seed(5)
    state, drawn = torch.random.get_rng_state(), []
    for _ in range(2):
        with foreign.with_same_draws(model, cpu):
            drawn.append(torch.rand(3))
    assert drawn[0].equal(drawn[1]) and torch.random.get_rng_state().equal(state)


def test_a_model_without_patches_is_run_as_it_is() -> None:
    model, options = families.load("sd15"), {"transformer_options": {"patches": {}}}
    assert foreign.with_writes_in_place(model, options) is options
    on_input(model, True)
    own = model.model_options
    held = own["transformer_options"]["patches"]["input_block_patch"]
    made = foreign.with_writes_in_place(model, own)["transformer_options"]["patches"]
    assert made["input_block_patch"] != held and len(made["input_block_patch"]) == 1
    assert own["transformer_options"]["patches"]["input_block_patch"] is held


def test_a_patch_keeps_copies_that_a_hook_around_it_sees() -> None:
    x, seen = torch.randn(5, requires_grad=True), []

    def patch(h: torch.Tensor) -> torch.Tensor:
        y = h.exp()
        z = y.sin()
        y *= 2
        return z + y

    with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (seen.append(t), t)[1], lambda t: t):
        out = foreign.keeping_copies(patch)(x)
    (found,) = torch.autograd.grad(out.sum(), x)
    expected = x.exp() * x.exp().cos() + 2 * x.exp()
    torch.testing.assert_close(found, expected.detach())
    assert len(seen) >= 2
