"""Which models an inversion is defined for, what tells two apart, and what fits which."""

import hashlib
from dataclasses import replace
from typing import Any

import comfy.model_sampling as kinds
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.model import (
    hash_weights,
    require_compatible,
    training_alphas,
)

from tests import edits, golden


class VPrediction(kinds.ModelSamplingDiscrete, kinds.V_PREDICTION):
    """As in Stable Diffusion 2."""


class Clean(kinds.ModelSamplingDiscrete, kinds.X0):
    """Discrete, on 1,000 timesteps, but it predicts the picture."""


class EDM(kinds.ModelSamplingDiscreteEDM, kinds.EPS):
    """The host gives its network log sigma in place of a timestep."""


class Continuous(kinds.ModelSamplingContinuousV, kinds.V_PREDICTION):
    """The host lists 1,000 of its sigmas, but there are no timesteps."""


class Distilled(kinds.ModelSamplingDiscrete, kinds.EPS):
    """50 timesteps, as models distilled for few steps have."""

    def __init__(self) -> None:
        super().__init__()
        self.set_sigmas(self.sigmas[19::20])


def of_kind(kind: Any, by_a_node: bool = False) -> Any:
    """A MODEL that samples so by itself, or since a node put it on."""
    model = golden.load_unet()
    if by_a_node:
        model.add_object_patch("model_sampling", kind())
    else:
        model.model.model_sampling = kind()
    return model


@pytest.mark.parametrize("kind", [Clean, EDM, Continuous, Distilled])
def test_a_model_that_is_not_discrete_epsilon_or_v_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="does not predict epsilon or v on 1000 .* load an SD1"):
        training_alphas(of_kind(kind))
    with pytest.raises(ValueError, match="another node, such as ModelSamplingDiscrete .*sampled as "
                       ".*; connect the MODEL from before that node"):
        training_alphas(of_kind(kind, by_a_node=True))


def test_a_model_of_v_prediction_has_the_schedule_of_its_sigmas() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    found = training_alphas(of_kind(VPrediction))
    torch.testing.assert_close(found, torch.cumprod(1 - betas, 0), rtol=2e-6, atol=0)


def digest(weights: dict[str, torch.Tensor]) -> str:
    made = hashlib.sha256()
    hash_weights(made, weights)
    return made.hexdigest()


WEIGHTS = {"a": torch.zeros(2, 3), "b": torch.ones(64)}


@pytest.mark.parametrize("other", [
    {"a": torch.zeros(3, 2)}, {"a": torch.zeros(6)}, {"c": torch.zeros(0)},
    {"b": torch.ones(64).index_fill(0, torch.tensor([63]), 2.0)},
], ids=["shape", "fewer dimensions", "another name", "the last element"])
def test_weights_of_another_shape_name_or_value_are_others(other: dict[str, Any]) -> None:
    assert digest({**WEIGHTS, **other}) != digest(WEIGHTS)


def test_the_same_weights_in_another_order_or_precision_are_the_same() -> None:
    assert digest(dict(reversed(WEIGHTS.items()))) == digest(WEIGHTS)
    assert digest({name: tensor.half() for name, tensor in WEIGHTS.items()}) == digest(WEIGHTS)


def test_a_trajectory_of_other_latent_channels_or_other_prompts_is_refused() -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        own = edits.trajectory_of(model)
    require_compatible(model, own)
    for other, found in (
        (replace(own, latents=torch.zeros(5, 16, 16, 24)), "of 16 latent channels and prompts 64"),
        (replace(own, positive=[(torch.zeros(1, 77, 768), {})]),
         "of 4 latent channels and prompts 768"),
    ):
        with pytest.raises(ValueError, match=f"{found} wide, .* has 4 and 64; connect the check"):
            require_compatible(model, other)


def test_guidance_zero_is_as_learnt_or_seven_and_a_half() -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        own = edits.trajectory_of(model)
        learnt = replace(edits.embedding_of(model), guidance=3.25)
        for embedding, asked, wanted in (
            (None, 0.0, 7.5), (None, 2.0, 2.0), (learnt, 0.0, 3.25), (learnt, 2.0, 2.0),
        ):
            parts = sampling.sampling_parts(Edit(model, own, embedding, None, asked))
            assert parts.guider.cfg == wanted


def test_sampling_starts_at_the_noisiest_latent_in_the_hosts_units() -> None:
    """x = z sqrt(1 + sigma^2) = z / sqrt(alpha-bar), over the host's scale factor .18215."""
    with torch.inference_mode():
        model = golden.load_unet()
        own = edits.trajectory_of(model)
        parts = sampling.sampling_parts(Edit(model, own, None, None, 7.5))
        alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
    start = own.latents[-1:] / float(alphas[751]) ** 0.5 / 0.18215
    torch.testing.assert_close(parts.latent["samples"].cpu(), start, rtol=1e-5, atol=1e-5)
