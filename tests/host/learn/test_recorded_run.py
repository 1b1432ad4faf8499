"""Learning on the host's UNet against recorded losses, latents and gradients."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import learner
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import golden
from tests.learning_requests import request


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return golden.tensors("learning")


@pytest.fixture(scope="module")
def run(recorded: dict[str, torch.Tensor]) -> dict[str, Any]:
    """One learning run from the recorded networks, with its first gradients and its latents."""
    seen: dict[str, Any] = {"latents": [], "gradients": []}
    make = learner.make_mapping

    def recorded_start(*arguments: Any) -> Any:
        network = make(*arguments)
        network.load_state_dict({k[len("init.0."):]: v for k, v in recorded.items()
                                 if k.startswith("init.0.")})
        return network

    class Watched(torch.optim.Adam):
        def step(self, *arguments: Any, **options: Any) -> Any:
            seen["gradients"].append([p.grad.clone() for p in self.param_groups[0]["params"]])
            return super().step(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(learner, "make_mapping", recorded_start)
        patch.setattr(torch.optim, "Adam", Watched)
        patch.setattr(host_learning.HostWatch, "after_step",
                      lambda self, i, latent, noise: seen["latents"].append((latent, noise)))
        model = golden.reloadable_unet()
        levels = make_levels(4, training_alphas(model))
        cond, uncond = [(recorded["cond"], {})], [(recorded["uncond"], {})]
        samples = vp_to_host(model, recorded["ddim_latent.0"])
        inverted = inversion.run_inversion(model, samples, cond, levels)
        assert inverted.latents is not None
        latents = torch.cat([recorded[f"ddim_latent.{k}"] for k in range(5)])
        assert golden.relative(inverted.latents, latents) < 1e-5
        trajectory = data.Trajectory(
            latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
        patch.setattr(host_learning, "image_tokens", lambda clip_vision, image: image)
        seen["embedding"] = host_learning.learn_value_embedding(
            model, trajectory, "tower", recorded["img_feats"],
            request(fast=False, inner_steps=6))
    return seen


def test_losses_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    found = run["embedding"].losses
    assert len(found) == 22
    for loss, (latent, attention, total) in zip(found, recorded["losses"].tolist(), strict=True):
        tolerance = 1e-5 if loss.step < 2 else 1e-4
        assert loss.latent == pytest.approx(latent, rel=tolerance), loss
        assert loss.attention == pytest.approx(attention, rel=10 * tolerance), loss
        assert loss.total == pytest.approx(total, rel=tolerance), loss


def ddim_to_the_clean_end(latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The last step written out: timestep 1 to alpha-bar of timestep 0."""
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    here, below = torch.cumprod(1 - alphas, 0)[[1, 0]].tolist()
    clean = (latent - (1 - here) ** 0.5 * noise) / here**0.5
    return below**0.5 * clean + (1 - below) ** 0.5 * noise


def test_latents_after_each_step_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    reached = [latent for latent, _ in run["latents"][1:]]
    reached.append(ddim_to_the_clean_end(*run["latents"][-1]))
    assert len(reached) == 4
    for i, latent in enumerate(reached):
        tolerance = 1e-4 if i < 2 else 3e-3
        assert golden.relative(latent, recorded[f"latent_cur.{i}"]) < tolerance, i


@pytest.mark.parametrize("step", [0, 1])
def test_first_gradients_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor], step: int
) -> None:
    names = golden.facts("learning")["param_order"]
    gradients = run["gradients"][6 * step]
    without_gradient = {"conv_start.bias", "conv_block.0.0.bias"}
    for name, gradient in zip(names, gradients, strict=True):
        if name not in without_gradient:
            wanted = recorded[f"grad.opt{step}.it0.{name}"]
            assert golden.relative(gradient, wanted) < 1e-4, name
