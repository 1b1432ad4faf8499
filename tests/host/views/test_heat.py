"""Heat of a trajectory and of an edit against softmax maps that are made here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host import heat
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.host.views import heatmaps
from stylediffusion_pack.stylediffusion.method import (
    alignment,
    data,
    local_blend,
    prompt_to_prompt,
    schedule,
)

from reference import textbook
from tests import families, golden

STEPS, HEIGHT, WIDTH = 4, 16, 24
TAUS = ("tau_v", "tau_c", "tau_s", "tau_u")
WINDOWS = [(0.0, 0.5), (0.0, 0.6), (0.0, 0.6), (0.0, 0.0)]
COLUMNS = torch.zeros(77, 3)
COLUMNS[2, 0] = COLUMNS[[4, 5], 1] = COLUMNS[70, 2] = 1


def trajectory_of(model: Any, family: str) -> data.Trajectory:
    """An inversion of noise under random prompts."""
    latent = torch.randn(1, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(9))
    source, negative = families.prompts(family, 2)
    levels = schedule.make_levels(STEPS, training_alphas(model))
    sampler = inversion.run_inversion(model, vp_to_host(model, latent), source, levels)
    assert sampler.latents is not None
    return data.Trajectory(
        sampler.latents, levels, "", "", source, negative, sampler.layers, fingerprint(model))


def watch(
    steps: list[int], row: int = 0, made: prompt_to_prompt.Control | None = None
) -> heat.PromptHeat:
    return heat.PromptHeat(COLUMNS, steps, row, made, STEPS, torch.device("cpu"))


def quarter_maps(model: Any, trajectory: data.Trajectory, entry: int) -> torch.Tensor:
    """Softmax maps of one entry, summed over heads and the layers at 1/4: [T, h, w]."""
    found = []

    def attend(q: Any, k: Any, v: Any, extra: Any) -> Any:
        q, k, v = (t.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for t in (q, k, v))
        maps = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        grid = tuple(extra["activations_shape"][-2:])
        if extra["block"][0] != "middle" and grid == (HEIGHT // 4, WIDTH // 4):
            found.append(maps[0].sum(0).unflatten(0, grid).movedim(-1, 0))
        return (maps @ v).transpose(1, 2).flatten(2)

    places = [(name, i) for name in ("input", "middle", "output") for i in range(12)]
    options = {"cond_or_uncond": [0], "patches_replace": {"attn2": dict.fromkeys(places, attend)}}
    alpha = float(1 / (1 + model.model.model_sampling.sigmas.double() ** 2)[250 * entry + 1])
    tensor, more = trajectory.positive[0]
    y = {} if "pooled_output" not in more else {
        "y": model.model.encode_adm(**more, device="cpu").float()}
    textbook.called(
        model, trajectory.latents[entry : entry + 1] / alpha**0.5,
        torch.tensor([((1 - alpha) / alpha) ** 0.5]), tensor, options, **y)
    return torch.stack(found).sum(0).cpu()


@pytest.mark.parametrize(("family", "columns"), [
    ("sd15", COLUMNS), ("sd2", COLUMNS), ("sdxl", COLUMNS), ("sd15", torch.eye(77)[:, 2:22])])
def test_heat_of_a_trajectory_is_the_sum_of_its_maps_columns(
    family: str, columns: torch.Tensor
) -> None:
    """In the last case there are more words than a head is wide."""
    with torch.inference_mode():
        model = families.load(family)
        trajectory = trajectory_of(model, family)
        seen = heat.PromptHeat(columns, [0, 1, 3], 0, None, STEPS, torch.device("cpu"))
        heatmaps.watch_trajectory(Edit(model, trajectory), seen)
        entries = {step: STEPS - 1 - step for step in (0, 1, 3)}
        maps = {step: quarter_maps(model, trajectory, k) for step, k in entries.items()}
        other = quarter_maps(model, trajectory, 1)
    wanted = torch.einsum("thw,tc->chw", sum(maps.values()), columns)
    assert seen.sums is not None
    assert golden.relative(seen.sums, wanted) < 1e-5
    more = torch.einsum("thw,tc->chw", other, columns)
    assert golden.relative(3 * more, wanted) > 1e-3, "the steps must differ"


class Watched(textbook.Controller):
    """The textbook's explicit maps, summed over layers and steps for every row: [T, h, w]."""

    steps_wanted: tuple[int, ...] = ()
    total: dict[int, torch.Tensor] = {}

    def note(self, cond: torch.Tensor, grid: tuple[int, int]) -> None:
        super().note(cond, grid)
        for row in range(len(cond)):
            if self.step in self.steps_wanted:
                found = cond[row].sum(0).unflatten(0, grid).movedim(-1, 0)
                self.total[row] = self.total.get(row, torch.zeros(())) + found


def refined(words: bool) -> textbook.Edit:
    """Two new tokens, an emphasis on one of them and a window for another; perhaps a blend."""
    mapper, aligned, before = torch.zeros(77, 77), torch.ones(77), 0
    for j in range(77):
        if j in (2, 8):
            aligned[j], before = 0, before + 1
        else:
            mapper[j - before, j] = 1
    emphasis = torch.ones(77)
    emphasis[4] = 3.0
    return textbook.Edit(
        families.prompts("sd15", 3)[2][0][0], mapper, aligned, emphasis, {(5,): (0.0, 0.3)},
        ([2], [2]) if words else None)


def shared(words: bool) -> textbook.Edit:
    """A word of one token replaced by a word of two."""
    mapper = torch.zeros(77, 77)
    mapper[0, 0] = mapper[1, 1] = mapper[2, 2] = 1
    mapper[3, 3] = mapper[3, 4] = 0.5
    for j in range(5, 77):
        mapper[j - 1, j] = 1
    return textbook.Edit(families.prompts("sd15", 4)[3][0][0], mapper, torch.ones(77),
                         words=([3], [3, 4]) if words else None)


def as_control(edits: list[textbook.Edit]) -> prompt_to_prompt.Control:
    def masks(words: tuple[list[int], list[int]] | None) -> prompt_to_prompt.WordMasks | None:
        if words is None:
            return None
        made = torch.zeros(2, 77)
        for side in (0, 1):
            made[side, words[side]] = 1
        return prompt_to_prompt.WordMasks(made[0], made[1])

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
            masks(edit.words),
        )
        for edit in edits
    )
    windows = {tau: prompt_to_prompt.Window(*w) for tau, w in zip(TAUS, WINDOWS, strict=True)}
    return prompt_to_prompt.Control("", targets, **windows, blend=local_blend.Blend(threshold=0.7))


EDITS = {
    "replace alone": [shared(False)],
    "refine alone": [refined(False)],
    "refine and replace, both blended": [refined(True), shared(True)],
}


@pytest.mark.parametrize("name", EDITS)
def test_heat_of_an_edit_is_the_sum_of_the_textbooks_edited_columns(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits, learnt = EDITS[name], torch.Generator().manual_seed(5)
    scale = 1 + 0.1 * torch.randn(STEPS, 77, 64, generator=learnt)
    shift = 0.1 * torch.randn(STEPS, 77, 64, generator=learnt)
    monkeypatch.setattr(Watched, "total", {})
    monkeypatch.setattr(Watched, "steps_wanted", (0, 2, 3))
    monkeypatch.setattr(textbook, "Controller", Watched)
    with torch.inference_mode():
        model = families.load("sd15")
        trajectory = trajectory_of(model, "sd15")
        textbook.sample(
            model, trajectory.noise, trajectory.positive[0][0], trajectory.negative[0][0], edits,
            textbook.Settings(*WINDOWS, threshold=0.7, scale=scale, shift=shift),
            [751, 501, 251, 1])
        made = as_control(edits)
        embedding = data.ValueEmbedding(
            scale, shift, guidance=7.5, prompt="", fingerprint=fingerprint(model))
        for row in range(1 + len(edits)):
            seen = watch([0, 2, 3], row, made)
            heatmaps.watch_sampling(Edit(model, trajectory, embedding, made), seen)
            wanted = torch.einsum("thw,tc->chw", Watched.total[row], COLUMNS)
            assert seen.sums is not None
            assert golden.relative(seen.sums, wanted) < 5e-5, row
            assert row == 0 or golden.relative(Watched.total[row], Watched.total[0]) > 1e-3


def test_a_negative_prompt_of_two_chunks_leaves_the_heat_of_the_reconstruction_as_it_is() -> None:
    """The host then repeats the prompt's 77 tokens, so every key is there twice."""
    with torch.inference_mode():
        model = families.load("sd15")
        trajectory = trajectory_of(model, "sd15")
        embedding = data.ValueEmbedding(
            torch.ones(STEPS, 77, 64), torch.zeros(STEPS, 77, 64), guidance=7.5, prompt="",
            fingerprint=fingerprint(model))
        found = []
        for copies in (1, 2):
            negative = [(trajectory.negative[0][0].repeat(1, copies, 1), {})]
            own, seen = replace(trajectory, negative=negative), watch([0, 3])
            heatmaps.watch_sampling(Edit(model, own, embedding), seen)
            assert seen.sums is not None
            found.append(seen.sums)
    assert golden.relative(found[1], found[0]) < 1e-5


def test_watching_leaves_the_model_and_what_it_samples_as_they_were() -> None:
    with torch.inference_mode():
        model, made = families.load("sd15"), as_control([refined(True)])
        trajectory = trajectory_of(model, "sd15")

        def sampled() -> torch.Tensor:
            return sampling.sample_edits(Edit(model, trajectory, None, made, 7.5))["samples"]

        before, options = sampled(), repr(model.model_options)
        heatmaps.watch_trajectory(Edit(model, trajectory), watch([0]))
        heatmaps.watch_sampling(Edit(model, trajectory, None, made), watch([0], 1, made))
        assert repr(model.model_options) == options
        assert torch.equal(sampled(), before)


def test_a_replacement_that_stood_in_a_watched_layer_goes_on_to_work() -> None:
    calls = []

    def other(q: Any, k: Any, v: Any, extra: Any) -> Any:
        calls.append(extra["block"])
        return torch.zeros_like(q)

    with torch.inference_mode():
        model = families.load("sd15")
        trajectory = trajectory_of(model, "sd15")
        plain, layers = watch([0]), heatmaps.watched_layers(trajectory)
        heatmaps.watch_trajectory(Edit(model, trajectory), plain)
        first = layers[0]
        model.set_model_attn2_replace(other, first.block, first.number, first.index)
        under = watch([0])
        heatmaps.watch_trajectory(Edit(model, trajectory), under)
    assert calls == [(first.block, first.number)]
    assert plain.sums is not None and under.sums is not None
    assert golden.relative(under.sums, plain.sums) > 1e-3, "later layers see another input"
