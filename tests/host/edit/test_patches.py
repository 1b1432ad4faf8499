"""P2Plus sampling on the host's UNet against recorded latents of every step."""

import functools
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from stylediffusion_pack.stylediffusion.host.edit import between_steps, guider
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import k_to_vp, vp_to_host, vp_to_k
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import (
    alignment,
    data,
    local_blend,
    prompt_to_prompt,
    schedule,
    value_embedding,
)

from tests import golden


def recorded_embedding(case: dict[str, torch.Tensor]) -> data.ValueEmbedding:
    """Scale and shift of the recorded networks on the recorded image tokens."""
    networks, tables = golden.tensors("editing_networks"), []
    for i in range(5):
        network = value_embedding.MappingNetwork(197, 64, 64, 154)
        start = f"network.{i}."
        network.load_state_dict(
            {k[len(start):]: v for k, v in networks.items() if k.startswith(start)})
        with torch.no_grad():
            tables.append(network(case["img_feats"]))
    return data.ValueEmbedding(
        torch.stack([s for s, _ in tables]), torch.stack([b for _, b in tables]), guidance=7.5,
        prompt="", fingerprint="")


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


def recorded_words(name: str) -> prompt_to_prompt.WordMasks:
    """Masks over source and target tokens of the recorded blend words, at their positions."""
    positions = {"editing_replace_u0_lb": (2, 2), "editing_refine_u5_lb": (2, 3)}[name]
    masks = [torch.zeros(77), torch.zeros(77)]
    for mask, position in zip(masks, positions, strict=True):
        mask[position] = 1
    return prompt_to_prompt.WordMasks(*masks)


@dataclass
class Run:
    """What was seen in VP units after every step, rows source and target."""

    latents: list[torch.Tensor]
    masks: list[torch.Tensor]
    heats: list[torch.Tensor]


def recorded_edit(model: Any, name: str) -> Edit:
    """A recorded case as the pack has it."""
    case, facts = golden.tensors(name), golden.facts(name)
    windows = {
        t: prompt_to_prompt.Window(0.0, facts[t]) for t in ("tau_v", "tau_c", "tau_s", "tau_u")
    }
    source, edit, empty = ([(t, {})] for t in
                           (case["cond"][:1], case["cond"][1:], case["uncond"][:1]))
    probe = inversion.run_inversion(
        model, vp_to_host(model, case["x_t"]), source,
        schedule.make_levels(1, training_alphas(model)))
    trajectory = data.Trajectory(
        case["x_t"].expand(6, -1, -1, -1), schedule.make_levels(5, training_alphas(model)), "", "",
        source, empty, probe.layers, fingerprint(model))
    target = prompt_to_prompt.Target(
        "", "", edit, recorded_alignment(case), blend=recorded_words(name))
    edits = prompt_to_prompt.Control(
        "", (target,), **windows, blend=local_blend.Blend(threshold=facts["lb_th"][0]))
    return Edit(model, trajectory, recorded_embedding(case), edits, 7.5)


@functools.cache
def sample(name: str) -> Run:
    run = Run([], [], [])
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        model = golden.load_unet()
        edit = recorded_edit(model, name)
        own, sigmas = guider.P2PlusGuider(edit), edit.trajectory.levels.sampling_sigmas()
        start = vp_to_host(model, vp_to_k(edit.trajectory.noise, float(sigmas[0])))
        mix, mask_of = between_steps.blended, between_steps.blend_mask

        def read(heat: torch.Tensor, *arguments: Any) -> torch.Tensor:
            run.heats.append(heat[0].clone())
            return mask_of(heat, *arguments)

        def watched(latents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            run.masks.append(mask.clone())
            return mix(latents, mask)

        def callback(step: int, denoised: Any, x: torch.Tensor, total: int) -> None:
            if step:
                run.latents.append(k_to_vp(x, float(sigmas[step])).clone())

        patch.setattr(between_steps, "blended", watched)
        patch.setattr(between_steps, "blend_mask", read)
        euler = comfy.samplers.sampler_object("euler")
        final = own.sample(torch.zeros_like(start), start, euler, sigmas,
                           callback=callback, disable_pbar=True, seed=0)
        run.latents.append(model.model.process_latent_in(final))
    return run


@pytest.mark.parametrize("name", ["editing_replace_u0_lb", "editing_refine_u5_lb"])
@pytest.mark.parametrize("row", [0, 1])
def test_every_step_follows_the_recorded_latents(name: str, row: int) -> None:
    case, found = golden.tensors(name), sample(name).latents
    assert len(found) == 5
    for i, latents in enumerate(found):
        assert golden.relative(latents[row], case[f"latents.{i}"][row]) < 5e-5, i


@pytest.mark.parametrize("name", ["editing_replace_u0_lb", "editing_refine_u5_lb"])
def test_maps_of_the_blend_words_are_the_recorded_ones_before_the_threshold(name: str) -> None:
    """Source and target, pooled and over their maximum, from the second step on."""
    case, found = golden.tensors(name), sample(name).heats
    assert len(found) == 4 and found[0].shape == (2, 16, 16)
    for i, heat in enumerate(found, start=1):
        pooled = F.max_pool2d(heat, 3, 1, 1)
        share = pooled / pooled.amax((-2, -1), keepdim=True)
        for row in (0, 1):
            wanted = case[f"lb_map_norm16.{i}"][row, 0]
            assert golden.relative(share[row], wanted) < 5e-5, (i, row)
    source, target = case["lb_map_norm16.4"]
    assert golden.relative(source, target) > 1e-3, "they must differ once the window has passed"


def test_the_replace_case_s_mask_covers_everything_as_recorded() -> None:
    case, found = golden.tensors("editing_replace_u0_lb"), sample("editing_replace_u0_lb").masks
    for i, mask in enumerate(found, start=1):
        assert torch.equal(mask, case[f"lb_mask.{i}"][1:] > 0) and mask.all()


def test_blend_masks_are_the_recorded_ones_from_the_second_step_on() -> None:
    case, found = golden.tensors("editing_refine_u5_lb"), sample("editing_refine_u5_lb").masks
    assert len(found) == 4
    for i, mask in enumerate(found, start=1):
        wanted = case[f"lb_mask.{i}"][1:] > 0
        assert 0 < wanted.float().mean() < 1, "a mask that is all or nothing proves nothing"
        assert torch.equal(mask, wanted), i
