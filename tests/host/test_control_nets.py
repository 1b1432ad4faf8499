"""A ControlNet on the trajectory: inversion, learning, edits and heatmaps all run under it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.model_management
import comfy.samplers
import folder_paths
import pytest
import torch
from stylediffusion_pack.nodes.invert import DDIMInvert
from stylediffusion_pack.stylediffusion.host import control_nets, inversions
from stylediffusion_pack.stylediffusion.host.autograd import foreign
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.heat import PromptHeat
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host, vp_to_k
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.views import heatmaps, tau_sweep
from stylediffusion_pack.stylediffusion.method import (
    alignment,
    data,
    learning,
    prompt_to_prompt,
)

from tests import checkpoints, golden
from tests.learning_requests import request

STEPS, GUIDANCE = 2, 7.5
SOURCE, FIRST, SECOND = "a cat", "a dog", "a boat"
NEVER, HALF = prompt_to_prompt.Window(0.0, 0.0), prompt_to_prompt.Window(0.0, 0.5)
CPU = torch.device("cpu")
CONFIG = {k: v for k, v in golden.UNET_CONFIG.items() if k != "out_channels"} | {
    "num_heads": 8, "hint_channels": 3, "dtype": torch.float32}
LATENT = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(31))


class Words:
    """A text encoder that gives each prompt random vectors of its own."""

    def tokenize(self, prompt: str) -> str:
        return prompt

    def encode_from_tokens_scheduled(self, prompt: str) -> data.Conditioning:
        drawn = torch.Generator().manual_seed(sum(map(ord, prompt)))
        return [(torch.randn(1, 77, 64, generator=drawn), {})]


def network() -> torch.nn.Module:
    """A ControlNet of the recorded UNet's shape; none of its last layers is zero."""
    made = comfy.cldm.cldm.ControlNet(**CONFIG)
    made.load_state_dict({k: v.float() for k, v in checkpoints.randomized(made).items()})
    return made


def plain_control_net() -> Any:
    with torch.inference_mode():
        return comfy.controlnet.ControlNet(network(), load_device=CPU)


def control_lora() -> Any:
    with torch.inference_mode():
        weights = network().state_dict()
        return comfy.controlnet.ControlLora({**weights, "lora_controlnet": torch.zeros(1)})


KINDS = {"ControlNet": plain_control_net, "ControlLora": control_lora}


def hint(seed: int = 41, count: int = 1) -> torch.Tensor:
    """Black and white blocks, of another size than the picture, as a node receives them."""
    with torch.inference_mode():
        drawn = torch.rand(count, 8, 12, 3, generator=torch.Generator().manual_seed(seed))
        return (drawn > 0.5).float().repeat_interleave(9, 1).repeat_interleave(9, 2)


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def control_net() -> Any:
    return plain_control_net()


def inverted(model: Any, *controlled: Any) -> data.Trajectory:
    """What DDIM Invert gives with control_net, control_image and control_strength, or without."""
    with torch.inference_mode():
        samples = vp_to_host(model, LATENT)
        names = ("control_net", "control_image", "control_strength")
        found = DDIMInvert.execute(model, Words(), {"samples": samples}, SOURCE, STEPS,
                                   **dict(zip(names, controlled, strict=False)))
        return found.result[0]


@pytest.fixture(scope="module")
def trajectory(model: Any, control_net: Any) -> data.Trajectory:
    return inverted(model, control_net, hint())


def released(trajectory: data.Trajectory) -> data.Trajectory:
    """The same way, without the ControlNet."""
    return data.Trajectory(
        *(getattr(trajectory, field.name) for field in fields(data.Trajectory)))


def test_the_conditioning_of_a_trajectory_under_a_control_net_is_plain_data(
    trajectory: data.Trajectory
) -> None:
    assert isinstance(trajectory, control_nets.ControlledTrajectory)
    for _, extra in (*trajectory.positive, *trajectory.negative):
        for name, value in extra.items():
            plain = value is None or isinstance(value, (torch.Tensor, str, int, float, bool))
            assert plain and "control" not in name


def edits(window: prompt_to_prompt.Window, *prompts: str) -> prompt_to_prompt.Control:
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    made = tuple(
        prompt_to_prompt.Target(
            prompt, "replace", Words().encode_from_tokens_scheduled(prompt), same
        )
        for prompt in prompts
    )
    return prompt_to_prompt.Control(SOURCE, made, window, window, window, window)


def sample(model: Any, trajectory: Any, edit: Any, guidance: float = GUIDANCE) -> torch.Tensor:
    with torch.inference_mode():
        return sampling.sample_edits(Edit(model, trajectory, None, edit, guidance))["samples"]


def learn(
    model: Any, trajectory: Any, fast: bool = True, evaluations: int = 3
) -> data.ValueEmbedding:
    chosen = request(
        fast, inner_steps=3, first_evaluations=evaluations, closing_evaluations=evaluations,
        last_evaluations=evaluations)
    with torch.inference_mode():
        return host_learning.learn_value_embedding(
            model, trajectory, None, None, chosen)


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


@pytest.mark.parametrize(("kind", "fast"), [
    ("ControlNet", True), ("ControlNet", False), ("ControlLora", True)])
def test_learning_under_a_control_net_lowers_the_loss_and_leaves_it_as_it_was(
    model: Any, kind: str, fast: bool
) -> None:
    made = KINDS[kind]()
    before = control_nets._weights(made)
    kept = {name: (tensor.clone(), tensor.requires_grad) for name, tensor in before.items()}
    way = inverted(model, made, hint())
    embedding = learn(model, way, fast)
    for step in range(STEPS):
        losses = [loss.total for loss in embedding.losses if loss.step == step]
        assert len(losses) > 1 and min(losses) < losses[0], step
    assert not embedding.scale.requires_grad and not embedding.shift.requires_grad
    after = control_nets._weights(made)
    assert after.keys() == kept.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, kept[name][0]) and tensor.grad is None, name
        assert tensor.requires_grad == kept[name][1], name
    used = control_nets.control_net_of(way)
    assert used.cond_hint is None and used.previous_controlnet is None
    assert golden.relative(learn(model, released(way), fast).scale, embedding.scale) > 1e-3


def test_what_was_learnt_brings_the_picture_back_under_the_control_net_only(
    model: Any, trajectory: data.Trajectory
) -> None:
    embedding = learn(model, trajectory, evaluations=16)
    clean = vp_to_host(model, trajectory.latents[:1])
    with torch.inference_mode():
        learnt, plain, without = (
            golden.relative(
                sampling.sample_edits(Edit(model, way, e, None, GUIDANCE))["samples"], clean
            )
            for way, e in (
                (trajectory, embedding),
                (trajectory, None),
                (released(trajectory), embedding),
            )
        )
    assert learnt < 0.5 * plain and learnt < 0.5 * without


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


def test_a_stopped_run_is_not_gone_on_from_under_another_control_net(
    model: Any, control_net: Any, trajectory: Any, user_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep = host_learning.HostWatch.keep

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        keep(self, learnt)
        raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep", stopping)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory)
    for other in (inverted(model, control_net, hint(42)), inverted(model)):
        assert {loss.step for loss in learn(model, other).losses} == set(range(STEPS))
    again = inverted(model, control_net, hint())
    assert {loss.step for loss in learn(model, again).losses} == set(range(STEPS))
    assert not list(user_folder.iterdir())


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


def test_a_control_net_alone_needs_no_operation_looked_at(
    model: Any, control_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(foreign, "NormalTensors")
    assert learn(model, inverted(model, control_net, hint())).steps == STEPS


class Asked:
    """Counts how often the host's ControlNet computes, and keeps the frozen ones that ask it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.frozen = 0, []
        get, make = comfy.controlnet.ControlNet.get_control, control_nets.FrozenControlNet.__init__

        def counted(*args: Any) -> Any:
            self.count += 1
            return get(*args)

        def made(frozen: Any, *args: Any) -> None:
            make(frozen, *args)
            self.frozen.append(frozen)

        patch.setattr(comfy.controlnet.ControlNet, "get_control", counted)
        patch.setattr(control_nets.FrozenControlNet, "__init__", made)


@pytest.mark.parametrize(("kind", "fast", "times"), [
    ("ControlNet", True, 2), ("ControlLora", True, 2), ("ControlNet", False, 3)])
def test_a_step_asks_the_control_net_once_for_each_branch_and_learns_the_same(
    model: Any, kind: str, fast: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many evaluations it takes; the exact preset also sees the wanted maps, elsewhere."""
    way = inverted(model, KINDS[kind](), hint())
    counts: list[int] = []
    kept = host_learning.HostWatch.keep
    with monkeypatch.context() as patch:
        asked = Asked(patch)
        patch.setattr(host_learning.HostWatch, "keep", lambda self, learnt: (
            counts.append(asked.count), kept(self, learnt)))
        found = learn(model, way, fast)
    assert len(counts) == STEPS == 2 and counts[1] - counts[0] == times
    assert len([loss for loss in found.losses if loss.step == 1]) > 1
    (frozen,) = asked.frozen
    assert frozen.answer is None and frozen.sigmas is None, "nothing is held after the run"
    with monkeypatch.context() as patch:
        again = Asked(patch)
        get = control_nets.FrozenControlNet.get_control
        patch.setattr(control_nets.FrozenControlNet, "get_control", lambda self, *args: (
            self.forget(), get(self, *args))[1])
        wanted = learn(model, way, fast)
    assert again.count > asked.count
    assert torch.equal(found.scale, wanted.scale) and torch.equal(found.shift, wanted.shift)
    assert found.losses == wanted.losses


def test_a_run_that_breaks_off_holds_no_control(
    model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        assert asked.frozen[0].answer is not None
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(host_learning.HostWatch, "keep", stopping)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(model, trajectory)
    assert asked.frozen[0].answer is None
