"""A ControlNet on the trajectory: inversion, edits and heatmaps all run under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.samplers
import folder_paths
import pytest
import torch
from stylediffusion_pack.stylediffusion.host import control_nets, inversions
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.heat import PromptHeat
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host, vp_to_k
from stylediffusion_pack.stylediffusion.host.views import heatmaps, tau_sweep
from stylediffusion_pack.stylediffusion.method import data

from tests import golden
from tests.host.controlled import (
    CPU,
    FIRST,
    GUIDANCE,
    HALF,
    LATENT,
    NEVER,
    SECOND,
    SOURCE,
    STEPS,
    Words,
    control_lora,
    edits,
    hint,
    inverted,
    learn,
    plain_control_net,
    released,
    sample,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def control_net() -> Any:
    return plain_control_net()


@pytest.fixture(scope="module")
def trajectory(model: Any, control_net: Any) -> data.Trajectory:
    return inverted(model, control_net, hint())


def test_the_conditioning_of_a_trajectory_under_a_control_net_is_plain_data(
    trajectory: data.Trajectory
) -> None:
    assert isinstance(trajectory, control_nets.ControlledTrajectory)
    for _, extra in (*trajectory.positive, *trajectory.negative):
        for name, value in extra.items():
            plain = value is None or isinstance(value, (torch.Tensor, str, int, float, bool))
            assert plain and "control" not in name


def host_node() -> Any:
    """The host's ControlNetApplyAdvanced."""
    import nodes as host_nodes

    return host_nodes.ControlNetApplyAdvanced()


def test_rows_without_an_edit_are_the_hosts_own_under_its_own_node(
    model: Any, control_net: Any, trajectory: data.Trajectory
) -> None:
    ours = sample(model, trajectory, edits(NEVER, FIRST, SECOND))
    with torch.inference_mode():
        rows = [Words().encode_from_tokens_scheduled(p)[0][0] for p in (SOURCE, FIRST, SECOND)]
        negative = Words().encode_from_tokens_scheduled("")
        conditioned = host_node().apply_controlnet(
            [[torch.cat(rows), {}]], negative, control_net, hint(), 1.0, 0.0, 1.0)
        own = comfy.samplers.CFGGuider(model)
        own.set_conds(*conditioned)
        own.set_cfg(GUIDANCE)
        sigmas = trajectory.levels.sampling_sigmas()
        start = vp_to_k(trajectory.noise, float(sigmas[0]))
        start = vp_to_host(model, start).expand(3, -1, -1, -1).clone()
        found = own.sample(torch.zeros_like(start), start, comfy.samplers.sampler_object("euler"),
                           sigmas, disable_pbar=True, seed=0)
    assert torch.equal(ours, found / (1 + float(sigmas[-1]) ** 2) ** 0.5)
    free = sample(model, released(trajectory), edits(NEVER, FIRST, SECOND))
    for row in range(3):
        assert golden.relative(free[row], ours[row]) > 1e-2, row


class NoiseOnTheWay(comfy.samplers.Sampler):
    """eps of every latent of a trajectory at the next level, by the host's guider."""

    def __init__(self, latents: torch.Tensor) -> None:
        self.latents, self.found = latents, []

    def sample(self, model_wrap: Any, sigmas: torch.Tensor, extra_args: dict[str, Any],
               callback: Any, noise: torch.Tensor, latent_image: torch.Tensor,
               denoise_mask: Any = None, disable_pbar: bool = False) -> torch.Tensor:
        for latent, sigma in zip(self.latents[:-1], sigmas[1:], strict=True):
            x = (latent * (1 + sigma**2) ** 0.5)[None]
            self.found.append((x - model_wrap(x, sigma.expand(1), **extra_args)) / sigma)
        return latent_image


def test_every_step_up_is_by_the_noise_under_the_hosts_own_node(
    model: Any, control_net: Any, trajectory: data.Trajectory
) -> None:
    assert golden.relative(inverted(model).latents[1:], trajectory.latents[1:]) > 1e-2
    with torch.inference_mode():
        conditioned = host_node().apply_controlnet(
            Words().encode_from_tokens_scheduled(SOURCE), [], control_net, hint(), 1.0, 0.0, 1.0)
        asked = NoiseOnTheWay(trajectory.latents)
        own = comfy.samplers.CFGGuider(model)
        own.set_conds(conditioned[0], conditioned[0])
        own.set_cfg(1.0)
        own.sample(torch.zeros_like(LATENT), torch.zeros_like(LATENT), asked,
                   trajectory.levels.sigmas.float(), disable_pbar=True, seed=0)
    alphas = trajectory.levels.alphas_cumprod.tolist()
    for k, noise in enumerate(asked.found):
        clean = (trajectory.latents[k] - (1 - alphas[k]) ** 0.5 * noise) / alphas[k] ** 0.5
        wanted = alphas[k + 1] ** 0.5 * clean + (1 - alphas[k + 1]) ** 0.5 * noise
        assert golden.relative(wanted[0], trajectory.latents[k + 1]) < 1e-5, k


def test_strength_0_is_the_same_as_no_control_net(model: Any, control_net: Any) -> None:
    without, idle = inverted(model), inverted(model, control_net, hint(), 0.0)
    assert torch.equal(without.latents, idle.latents)
    assert control_nets.control_net_of(idle) is None
    for fast in (True, False):
        one, other = learn(model, without, fast), learn(model, idle, fast)
        assert torch.equal(one.scale, other.scale) and torch.equal(one.shift, other.shift)


def test_the_strength_is_felt(model: Any, control_net: Any, trajectory: Any) -> None:
    weak = inverted(model, control_net, hint(), 0.5)
    assert golden.relative(weak.latents, trajectory.latents) > 1e-3


def test_edits_of_two_targets_are_those_of_each_alone(
    model: Any, trajectory: data.Trajectory
) -> None:
    both = sample(model, trajectory, edits(HALF, FIRST, SECOND))
    assert torch.isfinite(both).all() and len(both) == 3
    for row, prompt in ((1, FIRST), (2, SECOND)):
        alone = sample(model, trajectory, edits(HALF, prompt))
        assert golden.relative(both[[0, row]], alone) < 1e-5
    cells = edits(HALF, SECOND)
    with torch.inference_mode():
        swept = tau_sweep.sample_cells(Edit(model, trajectory, None, cells, GUIDANCE))
    assert golden.relative(swept, both[2:]) < 1e-5


def test_exact_source_and_heatmaps_see_the_control_net(
    model: Any, trajectory: data.Trajectory
) -> None:
    with torch.inference_mode():
        exact = sampling.sample_edits(
            Edit(model, trajectory, None, edits(HALF, FIRST), GUIDANCE, True))["samples"]
        assert golden.relative(exact[:1], vp_to_host(model, trajectory.latents[:1])) < 1e-5
        seen = []
        for way in (trajectory, released(trajectory)):
            heat = PromptHeat(torch.eye(77)[:, 1:2], range(STEPS), 0, None, STEPS, CPU)
            heatmaps.watch_trajectory(Edit(model, way), heat)
            seen.append(heat.sums)
    assert golden.relative(*seen) > 1e-3


def test_hint_strength_and_weights_each_make_another_identity(control_net: Any) -> None:
    changed = plain_control_net()
    with torch.inference_mode():
        for weight in changed.control_model.parameters():
            weight.add_(0.01)
    typed = plain_control_net()
    typed.set_extra_arg("control_type", [3])
    ways = [(control_net, hint(), 1.0), (control_net, hint(42), 1.0), (control_net, hint(), 0.5),
            (changed, hint(), 1.0), (typed, hint(), 1.0), (control_lora(), hint(), 1.0)]
    found = [control_nets.identity(control_nets.with_hint(*way)) for way in ways]
    assert len(set(found)) == len(ways) and None not in found
    again = control_nets.with_hint(plain_control_net(), hint(), 1.0)
    assert control_nets.identity(again) == found[0]


def test_wrong_combinations_are_errors_that_name_the_input(model: Any, control_net: Any) -> None:
    with pytest.raises(ValueError, match="control_image is not connected"):
        inverted(model, control_net)
    with pytest.raises(ValueError, match="control_net is not connected"):
        inverted(model, None, hint())
    with pytest.raises(ValueError, match="control_image holds 2 pictures"):
        inverted(model, control_net, hint(count=2))
    foreign = plain_control_net()
    foreign.latent_format = comfy.latent_formats.SD3()
    with pytest.raises(ValueError, match="another kind of model"):
        inverted(model, foreign, hint())


def test_a_file_is_not_written_without_the_control_net(
    trajectory: data.Trajectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="under a ControlNet.*keep DDIM Invert in the graph"):
        inversions.save_inversion(trajectory, None, "inversion")
    assert not list(tmp_path.iterdir())
