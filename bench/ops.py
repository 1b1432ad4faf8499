"""How many operations and host reads editing and learning have beside the host alone.

    python -m bench.ops [--json FILE] [--only sd15|sdxl]

Counted on narrow models of SD1.5's and SDXL's block structure, which launch as many operations as
the real ones; nothing is timed, so it does not matter where it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import comfy.samplers
import torch
from torch import Tensor

from stylediffusion.host import text_encoder
from stylediffusion.host.edit import sampling
from stylediffusion.host.edit.request import Edit
from stylediffusion.host.invert import inversion
from stylediffusion.host.latent_units import vp_to_host
from stylediffusion.host.learn.embedding import learn_embeddings
from stylediffusion.host.learn.request import LearningRequest
from stylediffusion.host.learn.tasks import LearningTask
from stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion.method.alignment import Alignment
from stylediffusion.method.data import Trajectory, ValueEmbedding
from stylediffusion.method.prompt_to_prompt import Control, Target, Window, WordMasks
from stylediffusion.method.schedule import make_levels

from .operations import Count, Operations, by_step, counted

STEPS, SIDE, TOKENS, WORD, GUIDANCE = 6, 8, 77, 2, 7.5
SHAPES = ("sd15", "sdxl")
PICTURES = {"sd15": (1, 4), "sdxl": (1,)}  # with four of sdxl it takes minutes
MODES = ("replace", "blend", "refine")
INSIDE, PAST = slice(0, 2), slice(3, 5)


def target(prompt: Any, mode: str) -> Target:
    """One edit: Refine keeps half of the tokens its own, blend reads one word."""
    aligned, word = torch.ones(TOKENS), torch.zeros(TOKENS)
    word[WORD] = 1
    if mode == "refine":
        aligned[TOKENS // 2 :] = 0
    return Target("", mode, prompt, Alignment(torch.eye(TOKENS) * aligned, aligned),
                  blend=WordMasks(word, word) if mode == "blend" else None)


def control(subject: subjects.Subject, mode: str, count: int) -> Control:
    """The same edit as several targets, all windows open for half of the steps."""
    half = Window(0.0, 0.5)
    return Control("", (target(subject.negative, mode),) * count, half, half, half, half)


def walked(subject: subjects.Subject, contrast: float = 1.0) -> Trajectory:
    """An inversion of the subject's latent."""
    levels = make_levels(STEPS, training_alphas(subject.model))
    samples = vp_to_host(subject.model, contrast * subject.latent)
    found = inversion.run_inversion(subject.model, samples, subject.positive, levels)
    assert found.latents is not None
    return Trajectory(found.latents, levels, "", "", subject.positive, subject.negative,
                      found.layers, fingerprint(subject.model))


def plain(subject: subjects.Subject, trajectory: Trajectory, edits: Control) -> list[Count]:
    """The host's own steps on the same batch."""
    own = comfy.samplers.CFGGuider(subject.model)
    prompts = [trajectory.positive, *(one.conditioning for one in edits.targets)]
    own.set_conds(text_encoder.stacked(prompts), trajectory.negative)
    own.set_cfg(GUIDANCE)
    start = torch.randn(len(prompts), *subject.latent.shape[1:])
    return sampled(own.sample, start, trajectory)


def edited(subject: subjects.Subject, trajectory: Trajectory, edits: Control) -> list[Count]:
    """The same steps with a value embedding and the edits."""
    width = subject.positive[0][0].shape[-1]
    embedding = ValueEmbedding(torch.ones(STEPS, TOKENS, width), torch.zeros(STEPS, TOKENS, width),
                               guidance=GUIDANCE, prompt="", fingerprint=trajectory.fingerprint)
    parts = sampling.sampling_parts(Edit(subject.model, trajectory, embedding, edits, GUIDANCE))
    return sampled(parts.guider.sample, parts.latent["samples"], trajectory)


def sampled(sample: Callable[..., Tensor], start: Tensor, trajectory: Trajectory) -> list[Count]:
    """Counts of every step but the last."""
    euler, sigmas = comfy.samplers.sampler_object("euler"), trajectory.levels.sampling_sigmas()
    return by_step(lambda callback: sample(
        torch.zeros_like(start), start, euler, sigmas, callback=callback, disable_pbar=True,
        seed=0))


def mean(counts: list[Count]) -> Count:
    """The mean of several steps."""
    return Count(sum(c.operations for c in counts), sum(c.reads for c in counts)) / len(counts)


def edit_counts(shape: str) -> dict[str, Any]:
    """Edited / plain, inside and past the windows, and reads beyond plain's."""
    found: dict[str, Any] = {}
    with torch.inference_mode():
        subject = subjects.narrow(shape, SIDE)
        trajectory = walked(subject)
        for mode, count in [*((mode, 1) for mode in MODES), ("refine", 4)]:
            edits = control(subject, mode, count)
            without, ours = (work(subject, trajectory, edits) for work in (plain, edited))
            inside, past = ((mean(ours[part]), mean(without[part])) for part in (INSIDE, PAST))
            name = mode if count == 1 else f"{mode}, {count} targets"
            found[name] = row = {
                "plain": without[INSIDE][0].operations,
                "inside": round(inside[0].operations / inside[1].operations, 3),
                "past": round(past[0].operations / past[1].operations, 3),
                "reads": max(inside[0].reads - inside[1].reads, past[0].reads - past[1].reads)}
            print(f"  {shape}, {name}: {row['plain']:.0f} operations a plain step; edited / plain "
                  f"{row['inside']:.3f} inside the windows, {row['past']:.3f} past them; "
                  f"{row['reads']:.0f} host reads more", flush=True)
    return found


def learning_counts(shape: str, pictures: int) -> dict[str, float]:
    """One evaluation of the fast preset for one picture of so many, all set-up shared out, beside
    a forward and backward pass for one."""
    with torch.no_grad():
        subject = subjects.narrow(shape, SIDE)
    with torch.inference_mode():
        ways = [walked(subject, 1 - 0.1 * k) for k in range(pictures)]
        with Operations() as seen:
            learnt = learn_embeddings(
                [LearningTask(subject.model, way, LearningRequest()) for way in ways])
    evaluations = sum(len(one.losses) for one in learnt)
    each, floor = seen.count / evaluations, forward_and_backward(subject, ways[0])
    found = {"evaluations": evaluations, "floor": floor.operations,
             "over_floor": round(each.operations / floor.operations, 3),
             "reads": round(each.reads, 2)}
    print(f"  {shape}, fast learning, pictures together {pictures}: {floor.operations:.0f} "
          f"operations forward and backward; an evaluation of one picture "
          f"{found['over_floor']:.3f} times that, {found['reads']:.2f} host reads, over "
          f"{evaluations} evaluations with all set-up", flush=True)
    return found


def forward_and_backward(subject: subjects.Subject, trajectory: Trajectory) -> Count:
    """The host's conditional forward pass, and the gradient of its mean square in the latent."""
    counts: list[Count] = []

    def on(model: Any, options: dict[str, Any], sigmas: Tensor) -> None:
        def work() -> None:
            with torch.enable_grad():
                latent = subject.latent.clone().requires_grad_(True)
                noise, _ = comfy.samplers.calc_cond_batch(
                    model.inner_model, [model.conds["positive"], None], latent,
                    sigmas[:1], options)
                torch.autograd.grad(noise.square().mean(), latent)

        counts.append(counted(work))

    subject.model.model.requires_grad_(False)
    subjects.on_stage(subject, trajectory.levels.sampling_sigmas(), on)
    return counts[0]


def main() -> None:
    """Count, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench ops", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--only", choices=SHAPES, nargs="*")
    chosen = parser.parse_args(subjects.own_arguments)
    numbers = {shape: {"edit": edit_counts(shape), **{
        "learning" if pictures == 1 else f"learning, {pictures} pictures":
        learning_counts(shape, pictures) for pictures in PICTURES[shape]}}
        for shape in chosen.only or SHAPES}
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
