"""Nodes that guide otherwise while sampling are named before anything is learnt."""

from typing import Any

import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import families, golden
from tests.learning_requests import request

GUIDING = {
    "nodes_model_advanced": lambda model: RescaleCFG().patch(model, 0.7)[0],
    "nodes_nag": lambda model: NAGuidance.execute(model, 5.0, 0.5, 1.5).result[0],
    "nodes_pag": lambda model: PerturbedAttentionGuidance.execute(model, 3.0).result[0],
}


def learnt(model: Any) -> data.ValueEmbedding:
    """One evaluation a step of a model with other nodes on it."""
    cond, uncond = families.prompts("sd15", 2)
    levels = make_levels(2, training_alphas(model))
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(8))
    found = inversion.run_inversion(model, vp_to_host(model, latent), cond, levels)
    assert found.latents is not None
    trajectory = data.Trajectory(
        found.latents, levels, "", "", cond, uncond, found.layers, fingerprint(model))
    return host_learning.learn_value_embedding(model, trajectory, None, None, request(
        evaluations=1, first_evaluations=1, closing_evaluations=1, last_evaluations=1))


@pytest.mark.parametrize("node", GUIDING)
def test_a_node_that_changes_a_guided_step_is_named_with_the_remedy(node: str) -> None:
    with torch.inference_mode():
        model = GUIDING[node](golden.reloadable_unet())
        message = f"changes how this MODEL is guided .*{node}.*from before that node"
        with pytest.raises(ValueError, match=message):
            learnt(model)


def test_a_node_that_changes_both_branches_alike_is_learnt_with() -> None:
    with torch.inference_mode():
        model = FreeU_V2.execute(golden.reloadable_unet(), 1.3, 1.4, 0.9, 0.2).result[0]
        assert len(learnt(model).losses) == 2
