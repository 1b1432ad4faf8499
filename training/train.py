"""Train the demo model: pictures, VAE, latents, text encoder and UNet, vision tower, judge.

    python -m training.train [--stage NAME] [--steps N]

Without --stage all that a new model needs, one after another; on a CPU that takes several
sittings. Every stage resumes from its last checkpoint, draws its batches from
(seed, step) alone and stops by itself at --steps or after --minutes. COMFYUI_PATH names the ComfyUI
whose classes are trained.
"""

from __future__ import annotations

from . import host_path  # isort: skip  (before anything that imports comfy)

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from demo import model as parts
from demo import scenes

from . import judge
from .data import Budget, averaged, pixels, save_checkpoint, take, train
from .device import DEVICE, ON_CPU, autocast
from .diffusion import train_diffusion
from .exporting import export, trained_text, vocabulary_ids
from .pictures import DATA_SEED, draw_pictures, encode_latents
from .vae import train_decoder, train_vae

log = logging.getLogger("training.train")
SCENES = 14_000 if ON_CPU else 40_000
JUDGE_SCENES = 5_000


def train_vision(budget: Budget) -> bool:
    """The vision tower learns, by contrast, to agree with the frozen text encoder."""
    vocabulary = vocabulary_ids()
    text = trained_text(budget, vocabulary).to(DEVICE)
    tower = parts.new_vision_tower().to(DEVICE)
    tokens = parts.tokenizer()
    project = torch.nn.Linear(128, 128, bias=False).to(DEVICE)
    mean, std = (torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in
                 ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))

    def loss_of(step: int) -> Tensor:
        source = scenes.random_scenes(DATA_SEED - 1 - step)
        drawn = take(source, 64)
        ids = parts.token_ids(tokens, [scenes.caption(s) for s in drawn])
        images = pixels(drawn).to(DEVICE)
        with torch.no_grad():
            sentence = text(torch.searchsorted(vocabulary, ids).to(DEVICE))[2]
        with autocast():
            image = tower((images - mean) / std)[2]
        a = F.normalize(image.float(), dim=-1)
        b = F.normalize(project(sentence.float()), dim=-1)
        scores = 20 * a @ b.T
        same = (ids[:, None] == ids[None]).all(-1).float().to(DEVICE)
        wanted = same / same.sum(-1, keepdim=True)
        return F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)

    return train("vision", budget, {"vision": tower, "project": project}, 1e-3, loss_of)


def train_judge(budget: Budget) -> bool:
    """The classifier of drawn scenes, hardened by blur and noise; writes its file."""
    drawn = take(scenes.single_scenes(DATA_SEED), JUDGE_SCENES)
    images = torch.cat([(pixels(drawn[i : i + 100]) * 255).round().byte()
                        for i in range(0, len(drawn), 100)])
    right, network = judge.truth(drawn), judge.Judge().to(DEVICE)

    def loss_of(step: int) -> Tensor:
        pick = torch.randint(len(images), (48,))
        batch = images[pick].to(DEVICE).float() / 255
        batch = batch.flip(-1) if step % 2 else batch
        blurred = F.avg_pool2d(F.pad(batch, (1, 1, 1, 1), mode="replicate"), 3, 1)
        batch = torch.lerp(batch, blurred, torch.rand(48, 1, 1, 1, device=DEVICE))
        batch = batch + 0.06 * torch.rand(48, 1, 1, 1, device=DEVICE) * torch.randn_like(batch)
        with autocast():
            logits = network(batch)
        chosen = {q: answers[pick].to(DEVICE) for q, answers in right.items()}
        return judge.loss(logits.float(), chosen)

    done = train("judge", budget, {"judge": network}, 2e-3, loss_of)
    state = averaged("judge", budget, "judge", judge.Judge()).state_dict()
    save_checkpoint(judge.WEIGHTS, {k: v.half() for k, v in state.items()}, {
        "title": "Judge of demo scenes", "licence": "MIT", "seed": str(budget.seed),
        "data_version": str(scenes.VERSION),
        "command": f"python -m training.train --stage judge --steps {budget.steps}"})
    return done


# A stage's function, and its steps on a CPU and on a GPU, whose batches are larger.
STAGES: dict[str, tuple[Callable[[Budget], bool], int, int]] = {
    "pictures": (draw_pictures, 0, 0), "vae": (train_vae, 6_000, 12_000),
    "decoder": (train_decoder, 4_000, 8_000), "latents": (encode_latents, 0, 0),
    "diffusion": (train_diffusion, 9_000, 16_000), "vision": (train_vision, 400, 400),
    "judge": (train_judge, 700, 700), "export": (export, 0, 0)}
NEW_MODEL = ("pictures", "vae", "latents", "diffusion", "vision", "export")


def run(stage: str, chosen: argparse.Namespace) -> bool:
    """Run one stage on or from its checkpoint; returns whether all of its steps are done."""
    function, on_cpu, on_gpu = STAGES[stage]
    torch.manual_seed(chosen.seed)
    return function(Budget(
        chosen.out, chosen.seed, chosen.steps or (on_cpu if ON_CPU else on_gpu), chosen.minutes,
        chosen.weights, chosen.scenes, chosen.compile))


def main() -> None:
    """Run one stage, or all of a new model, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stage", choices=list(STAGES), help="only this one")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("checkpoints"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=1e6, help="at most, for each stage")
    parser.add_argument("--scenes", type=int, default=SCENES, help="of stage pictures")
    parser.add_argument("--weights", type=Path, help="an exported model to go on from")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=DEVICE.type == "cuda",
        help="on CUDA by itself; on a CPU a UNet step takes two thirds of the time, after a minute "
        "of a C++ compiler")
    chosen = parser.parse_args(host_path.own_arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    stages = (chosen.stage,) if chosen.stage else NEW_MODEL
    raise SystemExit(0 if all(run(stage, chosen) for stage in stages) else 3)


if __name__ == "__main__":
    main()
