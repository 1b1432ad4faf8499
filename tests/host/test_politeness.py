"""With the pack's effect off, the host's output is the host's own, bit for bit."""

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host, vp_to_k
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import alignment, data, prompt_to_prompt, schedule

from tests import golden

STEPS, GUIDANCE = 5, 7.5
NEVER = prompt_to_prompt.Window(0.0, 0.0)


def prompts(count: int) -> list[data.Conditioning]:
    generator = torch.Generator().manual_seed(3)
    return [[(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(count)]


def idle_control(targets: list[data.Conditioning]) -> prompt_to_prompt.Control:
    """Targets whose every window is shut."""
    same = alignment.Alignment(torch.eye(77), torch.ones(77))
    made = tuple(prompt_to_prompt.Target("", "replace", prompt, same) for prompt in targets)
    return prompt_to_prompt.Control("", made, NEVER, NEVER, NEVER, NEVER)


def host_euler(
    model: golden.comfy.model_patcher.ModelPatcher, rows: data.Conditioning,
    negative: data.Conditioning, noise: torch.Tensor, levels: schedule.Levels,
) -> torch.Tensor:
    """The host's own guider and sampler; VP latents in host units."""
    own = comfy.samplers.CFGGuider(model)
    own.set_conds(rows, negative)
    own.set_cfg(GUIDANCE)
    sigmas = levels.sampling_sigmas()
    start = vp_to_host(model, vp_to_k(noise, float(sigmas[0])))
    start = start.expand(len(rows[0][0]), -1, -1, -1).clone()
    samples = own.sample(torch.zeros_like(start), start, comfy.samplers.sampler_object("euler"),
                         sigmas, disable_pbar=True, seed=0)
    return samples / (1 + float(sigmas[-1]) ** 2) ** 0.5


@pytest.fixture(scope="module")
def sampled() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """What Sample gives with no effect, the host on the same rows, the host row by row."""
    with torch.inference_mode():
        model = golden.load_unet()
        levels = schedule.make_levels(STEPS, training_alphas(model))
        source, negative, *targets = prompts(4)
        noise = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(4))
        trajectory = data.Trajectory(
            noise.expand(STEPS + 1, -1, -1, -1), levels, "", "", source, negative, (),
            fingerprint(model))
        ours = sampling.sample_edits(Edit(model, trajectory, None, idle_control(targets), GUIDANCE))
        rows: data.Conditioning = [
            (torch.cat([p[0][0] for p in (source, *targets)]), {})]
        stacked = host_euler(model, rows, negative, noise, levels)
        singles = [host_euler(model, p, negative, noise, levels) for p in (source, *targets)]
    return ours["samples"], stacked, singles


def test_sample_without_effect_is_the_hosts_euler_bit_for_bit(
    sampled: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]
) -> None:
    ours, stacked, _ = sampled
    assert torch.equal(ours, stacked)
    assert golden.relative(ours[1:2], ours[2:3]) > 1e-3, "the rows must differ to prove anything"


def test_rows_of_a_stacked_batch_are_what_each_prompt_gives_alone(
    sampled: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]
) -> None:
    ours, _, singles = sampled
    for row, alone in enumerate(singles):
        assert golden.relative(ours[row : row + 1], alone) < 1e-5, row
