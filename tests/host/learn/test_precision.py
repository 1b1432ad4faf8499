"""Learning in every precision and by every road to the weights: what it sees is what is sampled."""

import functools
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data, learning
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import families
from tests.learning_requests import request

STEPS = 2
FP32, BF16, FP16, FP8 = torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn
every_precision = pytest.mark.parametrize("dtype", [FP32, BF16, FP16, FP8], ids=str)
every_road = pytest.mark.parametrize("reloads", [True, False], ids=["read again", "copied"])
VALUE = "input_blocks.1.1.transformer_blocks.0.attn2.to_v"
OUT = "output_blocks.5.1.transformer_blocks.0.attn1.to_out.0"


def loaded(dtype: torch.dtype, reloads: bool, with_lora: bool = False) -> Any:
    """A MODEL as nodes find it; call in inference mode."""
    model = families.load("sd15", dtype)
    assert all(p.is_inference() for p in model.model.parameters())
    if not reloads:
        model.cached_patcher_init = None
    return comfy.sd.load_lora_for_models(model, None, lora(model), 1.0, 0.0)[0] \
        if with_lora else model


def lora(model: Any) -> dict[str, torch.Tensor]:
    """A file's content of rank 2 on two layers."""
    generator, made = torch.Generator().manual_seed(6), {}
    weights = model.model.state_dict()
    for name in (VALUE, OUT):
        rows, columns = weights[f"diffusion_model.{name}.weight"].shape
        for part, shape in (("up", (rows, 2)), ("down", (2, columns))):
            made[f"diffusion_model.{name}.lora_{part}.weight"] = 0.5 * torch.randn(
                shape, generator=generator)
    return made


def inverted(
    model: Any, steps: int = STEPS, height: int = 8, width: int = 16
) -> data.Trajectory:
    cond, uncond = families.prompts("sd15", 2)
    levels = make_levels(steps, training_alphas(model))
    latent = 0.5 * torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(8))
    sampler = inversion.run_inversion(model, vp_to_host(model, latent), cond, levels)
    assert sampler.latents is not None
    return data.Trajectory(
        sampler.latents, levels, "", "", cond, uncond, sampler.layers, fingerprint(model))


def learnt(model: Any, trajectory: data.Trajectory) -> data.ValueEmbedding:
    chosen = request(fast=False, inner_steps=2, attention_weight=0.0)
    return host_learning.learn_value_embedding(model, trajectory, None, None, chosen)


def first_loss_of_the_host(model: Any, trajectory: data.Trajectory) -> float:
    """The first step of the host's own guider and Euler, and how far it ends from the way back."""
    own = comfy.samplers.CFGGuider(model)
    own.set_conds(trajectory.positive, trajectory.negative)
    own.set_cfg(7.5)
    sigmas = trajectory.levels.sampling_sigmas()
    start = trajectory.noise * (1 + float(sigmas[0]) ** 2) ** 0.5
    start = vp_to_host(model, start)
    found = own.sample(torch.zeros_like(start), start, comfy.samplers.sampler_object("euler"),
                       sigmas[:2], disable_pbar=True, seed=0)
    reached = model.model.process_latent_in(found) / (1 + float(sigmas[1]) ** 2) ** 0.5
    return float(((reached - trajectory.latents[STEPS - 1 : STEPS]) ** 2).mean())


def tolerance(dtype: torch.dtype) -> float:
    """Rows that run alone are rounded otherwise than two together."""
    return 1e-4 if dtype in (FP32, FP8) else 2e-2


@every_road
@every_precision
def test_the_first_loss_is_that_of_the_hosts_own_sampling_with_and_without_a_lora(
    dtype: torch.dtype, reloads: bool
) -> None:
    with torch.inference_mode():
        models = [loaded(dtype, reloads, with_lora) for with_lora in (True, False)]
        trajectory = inverted(models[1])
        found = [learnt(model, trajectory).losses[0].total for model in models]
        wanted = [first_loss_of_the_host(model, trajectory) for model in models]
    assert found == pytest.approx(wanted, rel=tolerance(dtype))
    assert wanted[0] != pytest.approx(wanted[1], rel=0.1), "the LoRA must do something"


@every_road
@pytest.mark.parametrize("dtype", [FP32, FP8], ids=str)
def test_a_partly_loaded_model_with_a_lora_is_learnt_through_as_it_is(
    dtype: torch.dtype, reloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, partly = comfy.model_patcher.ModelPatcher.load, []

    def half(self: Any, device_to: Any = None, *arguments: Any, **options: Any) -> None:
        load(self, device_to, lowvram_model_memory=self.model_size() // 2)
        partly.append(self.model.model_lowvram)

    with torch.inference_mode():
        model = loaded(dtype, reloads, with_lora=True)
        trajectory = inverted(model)
        wanted = first_loss_of_the_host(model, trajectory)
        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", half)
        found = learnt(loaded(dtype, reloads, with_lora=True), trajectory).losses[0].total
    assert any(partly)
    # An fp8 weight that is patched as it is used is not rounded to fp8 again.
    assert found == pytest.approx(wanted, rel=1e-4 if dtype == FP32 else 0.1)


@every_precision
def test_the_embedding_its_optimiser_its_losses_and_the_latents_are_fp32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[torch.dtype]] = {"parameters": set(), "optimiser": set(), "losses": set()}

    class Watched(torch.optim.Adam):
        def step(self, *arguments: Any, **options: Any) -> Any:
            result = super().step(*arguments, **options)
            for parameter in self.param_groups[0]["params"]:
                seen["parameters"] |= {parameter.dtype, parameter.grad.dtype}
            seen["optimiser"] |= {v.dtype for state in self.state.values() for v in state.values()}
            return result

    losses = learning.LearningStep.latent_losses

    def watched(self: Any, reached: Any) -> Any:
        found = losses(self, reached)
        seen["losses"] |= {reached.dtype, self.latent.dtype, found.dtype}
        return found

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    monkeypatch.setattr(learning.LearningStep, "latent_losses", watched)
    kept: list[learning.Learnt] = []
    keep = host_learning.HostWatch.keep
    monkeypatch.setattr(host_learning.HostWatch, "keep", lambda self, found: (
        kept.append(found), keep(self, found))[1])
    with torch.inference_mode():
        model = loaded(dtype, True)
        trajectory = inverted(model)
        embedding = learnt(model, trajectory)
    assert model.model.diffusion_model.input_blocks[0][0].weight.dtype == dtype
    assert seen == dict.fromkeys(seen, {FP32})
    assert trajectory.latents.dtype == embedding.scale.dtype == embedding.shift.dtype == FP32
    assert trajectory.latents.device.type == "cpu"
    assert {found.latent.dtype for found in kept} == {FP32}


def test_a_latent_that_overflows_in_half_precision_is_an_error_with_step_and_remedy() -> None:
    with torch.inference_mode():
        model = families.load("sd15", FP16)
        model.model.diffusion_model.out[2].weight.fill_(60000.0)
        with pytest.raises(FloatingPointError, match="after inversion step 1 of 2; run the model "
                           "in bf16 or fp32 .--bf16-unet, --fp32-unet. and invert again"):
            inverted(model)


def test_a_loss_that_overflows_in_half_precision_is_an_error_with_step_and_remedy() -> None:
    with torch.inference_mode():
        model = families.load("sd15", FP16)
        trajectory = inverted(model)
        model.model.diffusion_model.out[2].weight.fill_(60000.0)
        model.cached_patcher_init = None
        with pytest.raises(FloatingPointError, match="not finite at step 1 of 2, inner step 1; "
                           r"run the model in bf16 or fp32 .*, or lower learning_rate"):
            learnt(model, trajectory)


def test_another_lora_of_the_same_strength_on_the_same_layers_is_another_fingerprint() -> None:
    with torch.inference_mode():
        model = families.load("sd15")
        made = lora(model)
        other = {**made, f"diffusion_model.{OUT}.lora_up.weight":
                 -made[f"diffusion_model.{OUT}.lora_up.weight"]}
        first, again, second = (
            fingerprint(comfy.sd.load_lora_for_models(model, None, content, 1.0, 0.0)[0])
            for content in (made, dict(made), other))
    assert first == again != second


def first_gradient(
    model: Any, trajectory: data.Trajectory, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """Of the exact preset's first inner step, over all parameters of M."""
    seen: list[torch.Tensor] = []

    def watched(self: torch.optim.Adam) -> None:
        seen.append(torch.cat([leaf.grad.flatten() for leaf in self.param_groups[0]["params"]]))
        raise comfy.model_management.InterruptProcessingException

    chosen = request(fast=False, guidance=1.1, inner_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", watched)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            host_learning.learn_value_embedding(model, trajectory, None, None, chosen)
    return seen[0]


def test_small_gradients_in_half_precision_are_those_of_fp32(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the end of learning: each of the latent's elements hears little of the mean."""
    with torch.inference_mode():
        full, half = families.load("sd15"), families.load("sd15", FP16)
        for weight, rounded in zip(
                full.model.parameters(), half.model.parameters(), strict=True):
            weight.copy_(rounded.float())
        full.cached_patcher_init = half.cached_patcher_init = None
        trajectory = inverted(full, steps=20, height=48, width=48)
        wanted = first_gradient(full, trajectory, monkeypatch)
        found = first_gradient(half, trajectory, monkeypatch)
        monkeypatch.setattr(HostLearningModel, "gradient_scale", lambda self, latent: 1.0)
        unscaled = first_gradient(half, trajectory, monkeypatch)
    alike = functools.partial(torch.cosine_similarity, wanted, dim=0)
    assert alike(found) > 0.999
    assert alike(unscaled) < 0.9, "a gradient that fp16 holds anyway proves nothing"
