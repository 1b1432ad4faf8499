"""A latent is written in three units, and each way between them goes back to where it began."""

from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import pytest
import torch
from stylediffusion_pack.stylediffusion.host import latent_units as units

Z = torch.tensor([1.0, -2.0])


def model_of(form: Any) -> Any:
    return SimpleNamespace(get_model_object=lambda name: {"latent_format": form}[name])


def test_k_diffusion_latents_are_z_times_root_of_one_plus_sigma_squared() -> None:
    assert units.vp_to_k(Z, 3.0).tolist() == pytest.approx([10**0.5, -2 * 10**0.5])
    assert torch.allclose(units.k_to_vp(units.vp_to_k(Z, 3.0), 3.0), Z)


@pytest.mark.parametrize(("form", "factor"), [
    (comfy.latent_formats.SD15(), 0.18215), (comfy.latent_formats.SDXL(), 0.13025)])
def test_a_latent_between_nodes_is_z_over_the_scale_factor(form: Any, factor: float) -> None:
    model = model_of(form)
    assert torch.allclose(units.vp_to_host(model, Z), Z / factor)
    assert torch.allclose(units.host_to_vp(model, units.vp_to_host(model, Z)), Z)
