"""P2Plus sampling on the host's UNet against recorded latents of every step."""

from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion import alignment, artifacts, control, mapping, schedule
from stylediffusion_pack.stylediffusion.host import guider, inverting
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas

from tests import golden


def recorded_embedding(case: dict[str, torch.Tensor]) -> artifacts.ValueEmbedding:
    """Scale and shift of the recorded networks on the recorded image tokens."""
    networks, tables = golden.tensors("editing_networks"), []
    for i in range(5):
        network = mapping.MappingNetwork(197, 64, 64)
        start = f"network.{i}."
        network.load_state_dict(
            {k[len(start):]: v for k, v in networks.items() if k.startswith(start)})
        with torch.no_grad():
            tables.append(network(case["img_feats"]))
    return artifacts.ValueEmbedding(
        torch.stack([s for s, _ in tables]), torch.stack([b for _, b in tables]), 7.5, "", "", ())


def recorded_alignment(case: dict[str, torch.Tensor]) -> alignment.Alignment:
    """P and r of the recorded mapper: a matrix for Replace, a gather for Refine."""
    mapper = case["mapper"][0]
    if mapper.ndim == 2:
        return alignment.Alignment(mapper, torch.ones(77))
    kept = case["alphas"].reshape(77)
    matrix = torch.zeros(77, 77)
    for j in torch.nonzero(kept).flatten().tolist():
        matrix[int(mapper[j]), j] = 1
    return alignment.Alignment(matrix, kept)


def sample(name: str) -> list[torch.Tensor]:
    """Latents in VP units after every step, rows source and target."""
    case, facts = golden.tensors(name), golden.facts(name)
    windows = {t: control.Window(0.0, facts[t]) for t in ("tau_v", "tau_c", "tau_s", "tau_u")}
    seen: list[torch.Tensor] = []
    with torch.inference_mode():
        model = golden.load_unet()
        levels = schedule.make_levels(5, training_alphas(model))
        source, edit, empty = ([(t, {})] for t in
                               (case["cond"][:1], case["cond"][1:], case["uncond"][:1]))
        probe = inverting.run_inversion(
            model, inverting.to_host(model, case["x_t"]), source,
            schedule.make_levels(1, training_alphas(model)))
        trajectory = artifacts.Trajectory(
            case["x_t"], levels, "", "", source, empty, probe.layers, fingerprint(model))
        target = control.Target("", "", edit, recorded_alignment(case))
        own = guider.P2PlusGuider(
            model, trajectory, recorded_embedding(case),
            control.Control("", (target,), **windows), 7.5)
        sigmas = levels.sampling_sigmas()
        start = inverting.to_host(model, schedule.vp_to_k(case["x_t"], float(sigmas[0])))

        def callback(step: int, denoised: Any, x: torch.Tensor, total: int) -> None:
            if step:
                seen.append(schedule.k_to_vp(x, float(sigmas[step])).clone())

        final = own.sample(torch.zeros_like(start), start,
                           comfy.samplers.sampler_object("euler"), sigmas, callback=callback,
                           disable_pbar=True, seed=0)
        seen.append(inverting.from_k(model.model.process_latent_in(final), float(sigmas[-1])))
    return seen


def test_replace_follows_the_recorded_latents_at_every_step() -> None:
    case = golden.tensors("editing_replace_u0_lb")
    for i, latents in enumerate(sample("editing_replace_u0_lb")):
        for row in (0, 1):
            assert golden.relative(latents[row], case[f"latents.{i}"][row]) < 5e-5, (i, row)


@pytest.mark.parametrize("row", [0, 1])
def test_refine_with_tau_u_follows_the_recorded_latents_until_the_blend_begins(row: int) -> None:
    case = golden.tensors("editing_refine_u5_lb")
    first = sample("editing_refine_u5_lb")[0]
    assert golden.relative(first[row], case["latents.0"][row]) < 5e-5
