"""Sample against a controller that computes and edits every map, for what was not recorded."""

from dataclasses import replace
from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import guider
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
)

from reference import textbook
from tests import golden

STEPS, TIMESTEPS = 4, [751, 501, 251, 1]
TAUS = ("tau_v", "tau_c", "tau_s", "tau_u")
Prompts = tuple[torch.Tensor, torch.Tensor]


def context(seed: int, tokens: int = 77) -> torch.Tensor:
    return torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(seed))


def replaced(seed: int, **wishes: Any) -> textbook.Edit:
    return textbook.Edit(context(seed), torch.eye(77), torch.ones(77), **wishes)


def refined(seed: int, new: tuple[int, ...] = (2, 8), **wishes: Any) -> textbook.Edit:
    """Tokens that follow a new one are those of the source one place earlier."""
    mapper, aligned, before = torch.zeros(77, 77), torch.ones(77), 0
    for j in range(77):
        if j in new:
            aligned[j], before = 0, before + 1
        else:
            mapper[j - before, j] = 1
    return textbook.Edit(context(seed), mapper, aligned, **wishes)


def shared(seed: int, **wishes: Any) -> textbook.Edit:
    """A word of one token replaced by a word of two, each with half of its map."""
    mapper = torch.zeros(77, 77)
    mapper[0, 0] = mapper[1, 1] = 1
    mapper[2, 2] = mapper[2, 3] = 0.5
    for j in range(4, 77):
        mapper[j - 1, j] = 1
    return textbook.Edit(context(seed), mapper, torch.ones(77), **wishes)


def scattered(seed: int, source: int, tokens: int, **wishes: Any) -> textbook.Edit:
    """Every third token is new; each other one is some token of a source of another length."""
    drawn = torch.Generator().manual_seed(seed)
    places = torch.randint(source, (tokens,), generator=drawn)
    mapper, aligned = torch.zeros(source, tokens), torch.ones(tokens)
    mapper[places, torch.arange(tokens)] = 1
    aligned[::3] = 0
    return textbook.Edit(context(seed, tokens), mapper, aligned, **wishes)


def factors(**of: float) -> torch.Tensor:
    made = torch.ones(77)
    for token, factor in of.items():
        made[int(token[1:])] = factor
    return made


def masks(
    edit: textbook.Edit, words: tuple[list[int], list[int]] | None
) -> prompt_to_prompt.WordMasks | None:
    if words is None:
        return None
    made = [torch.zeros(count) for count in edit.mapper.shape]
    for side in (0, 1):
        made[side][words[side]] = 1
    return prompt_to_prompt.WordMasks(made[0], made[1])


def control(edits: list[textbook.Edit], settings: textbook.Settings) -> prompt_to_prompt.Control:
    """The same edits as the pack has them."""
    targets = tuple(
        prompt_to_prompt.Target(
            "",
            "",
            [(edit.context, {})],
            alignment.Alignment(edit.mapper, edit.aligned),
            edit.emphasis,
            tuple(
                prompt_to_prompt.WordWindow(t, prompt_to_prompt.Window(*w))
                for t, w in edit.windows.items()
            ),
            masks(edit, edit.words),
            masks(edit, edit.subtract),
            mask=edit.painted,
        )
        for edit in edits
    )
    windows = {tau: prompt_to_prompt.Window(*getattr(settings, tau)) for tau in TAUS}
    return prompt_to_prompt.Control(
        "", targets, **windows, blend=local_blend.Blend(
            settings.threshold, settings.start, settings.pooling, settings.softness))


def ours(model: Any, noise: torch.Tensor, edits: list[textbook.Edit], settings: textbook.Settings,
         prompts: Prompts) -> list[torch.Tensor]:
    """The pack's latents after every step, in VP units."""
    levels = schedule.make_levels(STEPS, training_alphas(model))
    source, negative = [(prompts[0], {})], [(prompts[1], {})]
    probe = inversion.run_inversion(
        model, vp_to_host(model, noise), source,
        schedule.make_levels(1, training_alphas(model)))
    trajectory = data.Trajectory(
        noise.expand(STEPS + 1, -1, -1, -1), levels, "", "", source, negative, probe.layers,
        fingerprint(model))
    embedding = None
    if settings.scale is not None and settings.shift is not None:
        embedding = data.ValueEmbedding(
            settings.scale, settings.shift, guidance=7.5, prompt="", fingerprint="")
    own = guider.P2PlusGuider(
        Edit(model, trajectory, embedding, control(edits, settings), settings.guidance))
    sigmas, seen = levels.sampling_sigmas(), [[] for _ in range(STEPS - 1)]
    start = vp_to_host(model, vp_to_k(noise, float(sigmas[0])))

    def callback(step: int, denoised: Any, x: torch.Tensor, total: int) -> None:
        portion, i = divmod(step, STEPS)
        if i:
            seen[i - 1].append(k_to_vp(x[1 if portion else 0 :], float(sigmas[i])).clone())

    euler = comfy.samplers.sampler_object("euler")
    final = own.sample(torch.zeros_like(start), start, euler, sigmas,
                       callback=callback, disable_pbar=True, seed=0)
    return [*(torch.cat(rows) for rows in seen), model.model.process_latent_in(final)]


PAINTED = torch.zeros(16, 24)
PAINTED[3:9, 5:11] = 1
PAINTED[9, 5:11] = 0.5
USUAL = textbook.Settings((0, 0.5), (0, 0.6), (0, 0.6), (0, 0))
LEARNT = replace(
    USUAL, scale=1 + 0.1 * torch.randn(STEPS, 77, 64, generator=torch.Generator().manual_seed(5)),
    shift=0.1 * torch.randn(STEPS, 77, 64, generator=torch.Generator().manual_seed(6)))
PLAIN = replace(LEARNT, scale=torch.zeros(STEPS, 77, 64), shift=context(8).expand(STEPS, -1, -1))
CASES: dict[str, tuple[list[textbook.Edit], textbook.Settings]] = {
    "replace": ([replaced(3)], USUAL),
    "replace with a learnt embedding": ([replaced(3)], LEARNT),
    "replace with the paper's plain form": ([replaced(3)], PLAIN),
    "refine with the paper's plain form": ([refined(3), refined(4)], PLAIN),
    "a word of two tokens": ([shared(3)], USUAL),
    "refine": ([refined(3)], LEARNT),
    "emphasis on an old word": ([replaced(3, emphasis=factors(t3=4.0))], USUAL),
    "emphasis on a new word": ([refined(3, emphasis=factors(t2=4.0, t5=-2.0))], USUAL),
    "a word's own window": ([replaced(3, windows={(2, 3): (0.0, 0.25)})], USUAL),
    "a word's window after tau_c": ([replaced(3, windows={(4,): (0.6, 1.0)})], USUAL),
    "a new word's own window": ([refined(3, windows={(2,): (0.2, 0.8)})], USUAL),
    "three targets of all kinds": (
        [replaced(3), refined(4), shared(5, emphasis=factors(t2=3.0))], LEARNT),
    "unconditional layout": ([replaced(3)], replace(USUAL, tau_u=(0, 0.5))),
    "windows that begin late": (
        [refined(3)], textbook.Settings((0.25, 0.8), (0.3, 0.9), (0.2, 0.7), (0.5, 1.0))),
    "everything all the time": (
        [replaced(3)], textbook.Settings((0, 1), (0, 1), (0, 1), (0, 1))),
    "blend": ([replaced(3, words=([2, 5], [2]))], replace(USUAL, threshold=0.8)),
    "blend in refine, with subtract": (
        [refined(3, words=([2], [2, 3]), subtract=([9], [9]))], replace(USUAL, threshold=0.7)),
    "blend with emphasis, for one of two": (
        [replaced(3, words=([2], [2]), emphasis=factors(t2=2.0)), refined(4)],
        replace(LEARNT, threshold=0.8, start=0.5)),
    "blend without pooling": (
        [replaced(3, words=([2, 5], [2]))], replace(USUAL, threshold=0.8, pooling=1)),
    "a soft blend, with subtract": (
        [replaced(3, words=([2], [2]), subtract=([9], [9]))],
        replace(USUAL, threshold=0.8, softness=0.1, start=0.5)),
    "a painted region, for one of two": (
        [replaced(3, painted=PAINTED), refined(4)], replace(USUAL, start=0.5)),
    "a painted region beside one of words": (
        [refined(3, painted=PAINTED), replaced(4, words=([2], [2]))],
        replace(USUAL, threshold=0.8)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_the_textbooks(name: str) -> None:
    check(*CASES[name], (context(1), context(2)))


WORDS = {"words": ([2, 70], [2]), "subtract": ([9], [9])}
LONG: dict[str, tuple[list[textbook.Edit], int, int]] = {
    "source and target of two chunks": ([scattered(3, 154, 154)], 154, 77),
    "a target of two chunks": ([scattered(3, 77, 154)], 77, 77),
    "a source of two chunks": ([scattered(3, 154, 77)], 154, 77),
    "a negative prompt of two chunks": ([replaced(3), refined(4)], 77, 154),
    "targets of one, two and three chunks beside a negative prompt of two": (
        [scattered(3, 77, 77), scattered(4, 77, 154, emphasis=torch.linspace(0, 2, 154)),
         scattered(5, 77, 231, windows={(2, 200): (0.0, 1.0)})], 77, 154),
    "blend where the target is longer": ([scattered(3, 77, 154, **WORDS)], 77, 77),
    "blend where all differ": (
        [scattered(3, 154, 77, **WORDS), scattered(4, 154, 231)], 154, 77),
}


@pytest.mark.parametrize("name", LONG)
def test_prompts_of_several_chunks_are_the_textbooks(name: str) -> None:
    edits, source, negative = LONG[name]
    check(edits, replace(LEARNT, threshold=0.8), (context(1, source), context(2, negative)))


def check(edits: list[textbook.Edit], settings: textbook.Settings, prompts: Prompts) -> None:
    noise = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        model = golden.load_unet()
        wanted = textbook.sample(
            model, noise, *prompts, edits, settings, TIMESTEPS)
        found = ours(model, noise, edits, settings, prompts)
    assert len(found) == len(wanted) == STEPS
    for i in range(STEPS):
        for row in range(1 + len(edits)):
            assert golden.relative(found[i][row], wanted[i][row]) < 5e-5, (i, row)
    for row in range(1, 1 + len(edits)):
        assert golden.relative(wanted[-1][row], wanted[-1][0]) > 1e-3, "the edit must do something"
    for row, edit in enumerate(edits, start=1):
        kept = (wanted[-1][row] == wanted[-1][0]).all(0).float().mean()
        blended = edit.words is not None or edit.painted is not None
        assert (0 < kept < 1) == blended, "a mask must hide something, not all"
