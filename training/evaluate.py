"""Measure the demo model: the VAE's fidelity, the judge's accuracy, and what prompts give.

    python -m training.evaluate [--out DIR] [--count 400]

Prints the numbers of the model card and writes evaluation.json and samples.png to DIR.
"""

from __future__ import annotations

from . import host_path  # isort: skip  (before anything that imports comfy)

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo import loading, scenes

from . import judge
from .data import fidelity, pixels, take

STEPS, GUIDANCE, SAMPLER, SCHEDULER = 20, 5.0, "dpmpp_2m", "karras"
BATCH = 40
SEED = 400
QUESTIONS = ("object", "colour", "place")


def vae_psnr() -> dict[str, float]:
    """Of the host's VAE."""
    vae = loading.load_vae()
    return fidelity(lambda images: vae.decode(vae.encode(images.movedim(1, -1))).movedim(-1, 1),
                    SEED, 100)


def judge_accuracy(seen: judge.Judge, count: int = 2000) -> dict[str, float]:
    """Share of right answers on freshly drawn scenes of one object."""
    source = scenes.single_scenes(SEED)
    right: Counter[str] = Counter()
    for start in range(0, count, 100):
        drawn = take(source, min(100, count - start))
        for scene, names in zip(drawn, judge.name(seen, pixels(drawn)), strict=True):
            said = dict(zip(judge.ANSWERS, (*scene.triple, scene.style), strict=True))
            right.update(q for q in said if names[q] == said[q])
    return {q: round(right[q] / count, 4) for q in judge.ANSWERS}


def wanted_scenes(count: int) -> list[scenes.Scene]:
    """Half of them of seen triples, half of unseen ones."""
    rng, chosen = random.Random(SEED), []
    unseen = sorted(scenes.UNSEEN)
    seen = [t for t in scenes.triples() if t not in scenes.UNSEEN]
    for i in range(count):
        triple = rng.choice(seen if i % 2 else unseen)
        chosen.append(scenes.scene_of(triple, rng.choice(scenes.STYLES), rng))
    return chosen


@torch.inference_mode()
def generate(prompts: list[str]) -> Tensor:
    """Pictures [B, 3, 128, 128] in 0..1 by the host's sampler, one a prompt."""
    import comfy.sample

    model, clip, vae = loading.load_model(), loading.load_clip(), loading.load_vae()
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(SEED))
    pictures = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        rows = torch.cat([clip.encode_from_tokens(clip.tokenize(p)) for p in some])
        part = noise[start : start + BATCH]
        latents = comfy.sample.sample(
            model, part, STEPS, GUIDANCE, SAMPLER, SCHEDULER, [[rows, {}]], negative,
            torch.zeros_like(part), disable_pbar=True, seed=SEED)
        pictures.append(vae.decode(latents).clamp(0, 1).movedim(-1, 1))
        print(f"  {start + len(some)} of {len(prompts)} pictures", flush=True)
    return torch.cat(pictures)


def prompt_accuracy(
    wanted: list[scenes.Scene], names: list[dict[str, str]]
) -> dict[str, dict[str, float]]:
    """Share of pictures whose object, colour and place are as asked, by seen and unseen triple."""
    found = {}
    for group, unseen in (("seen", False), ("unseen", True)):
        rows = [(dict(zip(QUESTIONS, scene.triple, strict=True)), name)
                for scene, name in zip(wanted, names, strict=True)
                if (scene.triple in scenes.UNSEEN) == unseen]
        found[group] = {q: round(sum(n[q] == a[q] for a, n in rows) / len(rows), 4)
                        for q in QUESTIONS}
    return found


def confusions(
    wanted: list[scenes.Scene], names: list[dict[str, str]]
) -> dict[str, dict[str, int]]:
    """What was judged in the place of what was asked, most frequent first."""
    found: dict[str, Counter[str]] = {q: Counter() for q in QUESTIONS}
    for scene, name in zip(wanted, names, strict=True):
        for question, answer in zip(QUESTIONS, scene.triple, strict=True):
            if name[question] != answer:
                found[question][f"{answer} judged {name[question]}"] += 1
    return {q: dict(counts.most_common()) for q, counts in found.items()}


def contact_sheet(pictures: Tensor, columns: int = 8) -> Any:
    """Pictures side by side."""
    from PIL import Image

    size = pictures.shape[-1]
    sheet = Image.new("RGB", (columns * size, -(-len(pictures) // columns) * size))
    for i, content in enumerate((pictures * 255).round().byte().movedim(1, -1)):
        sheet.paste(Image.fromarray(content.numpy()), (i % columns * size, i // columns * size))
    return sheet


def main() -> None:
    """Run everything from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--count", type=int, default=400)
    chosen = parser.parse_args(host_path.own_arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    seen, wanted = judge.load(), wanted_scenes(chosen.count)
    rng = random.Random(SEED)
    prompts = [scenes.caption(s, rng.randrange(3)) for s in wanted]
    numbers: dict[str, Any] = {"vae_psnr": vae_psnr(), "judge_accuracy": judge_accuracy(seen)}
    print(json.dumps(numbers, indent=2), flush=True)
    pictures = generate(prompts)
    names = judge.name(seen, pictures)
    numbers["pictures"] = chosen.count
    numbers["prompt_accuracy"] = prompt_accuracy(wanted, names)
    numbers["confusions"] = confusions(wanted, names)
    print(json.dumps(numbers, indent=2))
    (chosen.out / "evaluation.json").write_text(json.dumps(numbers, indent=2) + "\n")
    contact_sheet(pictures[:48]).save(chosen.out / "samples.png")
    for prompt in prompts[:48]:
        print(f"  {prompt}")


if __name__ == "__main__":
    main()
