"""Learning on the host's UNet against recorded losses, latents and gradients."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion import artifacts, learning
from stylediffusion_pack.stylediffusion.host import inverting
from stylediffusion_pack.stylediffusion.host import learning as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.schedule import make_levels

from tests import golden

SETTINGS = learning.LearningSettings(inner_steps=6)


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return golden.tensors("learning")


@pytest.fixture(scope="module")
def run(recorded: dict[str, torch.Tensor]) -> dict[str, Any]:
    """One learning run from the recorded networks, with its first gradients and its latents."""
    seen: dict[str, Any] = {"latents": [], "gradients": []}
    make = host_learning.make_mapping

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
        patch.setattr(host_learning, "make_mapping", recorded_start)
        patch.setattr(torch.optim, "Adam", Watched)
        patch.setattr(host_learning.LearningProgress, "after_step",
                      lambda self, i, clean, latent: seen["latents"].append(latent.clone()))
        model = golden.reloadable_unet()
        levels = make_levels(4, training_alphas(model))
        cond, uncond = [(recorded["cond"], {})], [(recorded["uncond"], {})]
        samples = inverting.to_host(model, recorded["ddim_latent.0"])
        inverted = inverting.run_inversion(model, samples, cond, levels)
        assert inverted.latents is not None
        latents = torch.cat([recorded[f"ddim_latent.{k}"] for k in range(5)])
        assert golden.relative(inverted.latents, latents) < 1e-5
        trajectory = artifacts.Trajectory(
            latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
        patch.setattr(host_learning, "image_tokens", lambda clip_vision, image: image)
        seen["embedding"] = host_learning.learn_value_embedding(
            model, trajectory, "tower", recorded["img_feats"], SETTINGS, 0, False)
    return seen


def test_losses_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    found = run["embedding"].losses
    assert len(found) == 22
    for loss, wanted in zip(found, recorded["losses"].tolist(), strict=True):
        tolerance = 1e-5 if loss.step < 2 else 1e-4
        assert loss.total == pytest.approx(wanted[2], rel=tolerance), loss


def test_latents_after_each_step_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    for i, latent in enumerate(run["latents"][1:]):
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
