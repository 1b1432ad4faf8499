"""Nodes that answer for the model from an earlier step are named before anything is learnt."""

from typing import Any

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import families, golden
from tests.learning_requests import request

STEPS = 8


def keeping(model: Any) -> Any:
    """A wrapper that gives the first answer again."""
    kept: list[torch.Tensor] = []

    def wrapper(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        kept[:] = kept or [apply(given["input"], given["timestep"], **given["c"])]
        return kept[0] if kept[0].shape == given["input"].shape else apply(
            given["input"], given["timestep"], **given["c"])

    found = model.clone()
    found.set_model_unet_function_wrapper(wrapper)
    return found


def half_kept(model: Any) -> Any:
    """A wrapper that asks the model every time, and adds something of the last answer."""
    last: list[torch.Tensor] = []

    def wrapper(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        own = apply(given["input"], given["timestep"], **given["c"])
        found = own + 0.5 * last[0] if last and last[0].shape == own.shape else own
        last[:] = [own]
        return found

    found = model.clone()
    found.set_model_unet_function_wrapper(wrapper)
    return found


CACHES = {
    "nodes_easycache": lambda model: EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0],
    "lazy": lambda model: LazyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0],
    "test_caching": keeping,
}


def walked(model: Any) -> data.Trajectory:
    cond, uncond = families.prompts("sd15", 2)
    levels = make_levels(STEPS, training_alphas(model))
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    found = inversion.run_inversion(model, vp_to_host(model, latent), cond, levels)
    assert found.latents is not None
    return data.Trajectory(
        found.latents, levels, "", "", cond, uncond, found.layers, fingerprint(model))


def learnt(model: Any, trajectory: data.Trajectory) -> data.ValueEmbedding:
    quick = request(evaluations=1, first_evaluations=1, closing_evaluations=1, last_evaluations=1)
    return host_learning.learn_value_embedding(model, trajectory, None, None, quick)


@pytest.mark.parametrize("node", CACHES)
def test_a_node_that_leaves_steps_out_is_named_by_learning_and_by_inversion(node: str) -> None:
    name = node.replace("lazy", "nodes_easycache")
    message = f"answers for this MODEL at level .*{name}.*connect the MODEL from before that node"
    with torch.inference_mode():
        plain = golden.reloadable_unet()
        trajectory = walked(plain)
        with pytest.raises(ValueError, match=message):
            learnt(CACHES[node](plain), trajectory)
        with pytest.raises(ValueError, match=message):
            walked(CACHES[node](plain))
        assert len(learnt(plain, trajectory).losses) == STEPS, "nothing of it is left"


def test_a_node_whose_answer_hangs_on_the_step_before_is_named() -> None:
    with torch.inference_mode():
        plain = golden.reloadable_unet()
        with pytest.raises(ValueError, match="depends on what it was asked before .*test_caching"):
            learnt(half_kept(plain), walked(plain))


def test_a_wrapper_that_asks_every_time_is_let_through() -> None:
    with torch.inference_mode():
        plain = golden.reloadable_unet()
        model = plain.clone()
        model.set_model_unet_function_wrapper(
            lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))
        assert torch.equal(walked(model).latents, walked(plain).latents)
        assert len(learnt(model, walked(plain)).losses) == STEPS
