"""Train the demo model: VAE, then text encoder and UNet, then the vision tower.

    python -m training.train --stage vae|decoder|latents|diffusion|vision|judge|export [--steps N]

Every stage resumes from its last checkpoint, draws its batches from (seed, step) alone and stops
by itself at --steps or after --minutes. COMFYUI_PATH names the ComfyUI whose classes are trained.
"""

from __future__ import annotations

import argparse
import logging
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from demo import model as parts
from demo import scenes

from . import host_path, judge
from .data import Budget, averaged, begin, pixels, save_checkpoint, take, train
from .exporting import export, trained_text, trained_vae, vocabulary_ids, vocabulary_rows

log = logging.getLogger("training.train")
DATA_SEED = 20260101
LATENT_SCENES = 14_000
CAPTIONS_A_SCENE = 6
SIGNAL_TO_NOISE_LIMIT = 5.0
JUDGE_SCENES = 5_000
CROP, CROPS = 64, 8


FAST_BFLOAT16 = torch.cpu._is_amx_tile_supported()
VAE_LAYOUT = torch.channels_last if FAST_BFLOAT16 else torch.contiguous_format


def autocast() -> torch.autocast:
    """bf16 where the processor has units for it; elsewhere fp32 is faster."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=FAST_BFLOAT16)


def random_crops(step: int) -> Tensor:
    """64-pixel crops [8, 3, 64, 64] of fresh scenes, on the grid of latent cells.

    Five of eight are sketches, and of three places in a picture the one with most edges is
    taken: that is where the round trip still errs.
    """
    source = scenes.random_scenes(DATA_SEED + 1 + step)
    wanted = [scenes.STYLES[i < CROPS * 5 // 8] for i in range(CROPS)]
    whole = pixels([next(s for s in source if s.style == style) for style in wanted])
    rng = random.Random(step)
    images = torch.stack([max((_crop(w, rng) for _ in range(3)), key=_edges) for w in whole])
    return images.contiguous(memory_format=VAE_LAYOUT)


def _crop(picture: Tensor, rng: random.Random) -> Tensor:
    y, x = rng.randrange(0, 65, 8), rng.randrange(0, 65, 8)
    return picture[:, y : y + CROP, x : x + CROP]


def _edges(crop: Tensor) -> float:
    return float(crop.diff(dim=-1).abs().mean() + crop.diff(dim=-2).abs().mean())


def picture_loss(back: Tensor, images: Tensor) -> Tensor:
    """L1 + 4 MSE."""
    error = back.float() - images
    return error.abs().mean() + 4 * error.square().mean()


def vae_to_train(budget: Budget) -> Any:
    """A new VAE, or the exported one a run starts from, in the layout that trains faster."""
    vae = parts.new_vae()
    begin(budget, vae, "first_stage_model")
    return vae.to(memory_format=VAE_LAYOUT)


def train_vae(budget: Budget) -> bool:
    """Stage 1: the VAE, its latents held near zero mean and unit variance."""
    vae = vae_to_train(budget)

    def loss_of(step: int) -> Tensor:
        images = random_crops(step)
        with autocast():
            latents = vae.taesd_encoder(images)
            back = vae.taesd_decoder(latents + 0.02 * torch.randn_like(latents))
        moments = latents.float().transpose(0, 1).flatten(1)
        spread = moments.mean(1).square().mean() + (moments.std(1) - 1).square().mean()
        return picture_loss(back, images) + 0.02 * spread

    return train("vae", budget, {"vae": vae}, 1.5e-3, loss_of,
                 report=lambda: str(vae_quality(vae)))


def train_decoder(budget: Budget) -> bool:
    """The decoder alone, when a UNet has already been trained on the encoder's latents."""
    vae = vae_to_train(budget)

    def loss_of(step: int) -> Tensor:
        images = random_crops(step)
        with autocast():
            with torch.no_grad():
                latents = vae.taesd_encoder(images)
            back = vae.taesd_decoder(latents + 0.02 * torch.randn_like(latents))
        return picture_loss(back, images)

    return train("decoder", budget, {"decoder": vae.taesd_decoder}, 1e-3, loss_of,
                 report=lambda: str(vae_quality(vae)))


@torch.no_grad()
def vae_quality(vae: Any, count: int = 24) -> dict[str, float]:
    """Mean PSNR in dB of the round trip on unseen scenes, by style."""
    found = {}
    for style in scenes.STYLES:
        source = (s for s in scenes.random_scenes(77, unseen=True) if s.style == style)
        images = pixels(take(source, count))
        back = vae.taesd_decoder(vae.taesd_encoder(images)).clamp(0, 1)
        error = (back - images).square().flatten(1).mean(1)
        found[style] = round(float((-10 * error.log10()).mean()), 2)
    return found


@torch.no_grad()
def encode_latents(budget: Budget) -> bool:
    """Stage 2: every training scene's latents and the token ids of six captions, once."""
    vae = trained_vae(budget).to(memory_format=VAE_LAYOUT)
    log.info("VAE round trip in dB: %s", vae_quality(vae))
    source, rng = scenes.random_scenes(DATA_SEED), random.Random(DATA_SEED)
    tokens = parts.tokenizer()
    latents, ids = [], []
    for start in range(0, budget.scenes, 50):
        drawn = take(source, 50)
        with autocast():
            images = pixels(drawn).contiguous(memory_format=VAE_LAYOUT)
            latents.append(vae.taesd_encoder(images).half())
        texts = [scenes.random_caption(s, rng) for s in drawn for _ in range(CAPTIONS_A_SCENE)]
        ids.append(parts.token_ids(tokens, texts).to(torch.int32).view(50, CAPTIONS_A_SCENE, 77))
        if start % 1000 == 0:
            log.info("latents %d of %d", start, budget.scenes)
    save_checkpoint(budget.file("latents"), {
        "latents": torch.cat(latents), "ids": torch.cat(ids),
        "empty": parts.token_ids(tokens, [""])[0],
    }, {})
    return True


def plain_attention(
    fused: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *_: Any, **options: Any
) -> Tensor:
    """softmax(q k^T) v: with heads of 16 it trains faster on a CPU than any fused kernel."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    maps = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return (maps @ v).transpose(1, 2).flatten(2)


def alphas_cumprod() -> Tensor:
    """The schedule of Stable Diffusion 1.x, fp64 [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def train_diffusion(budget: Budget) -> bool:
    """Stage 3: epsilon prediction with min-SNR weights, one caption in ten dropped."""
    data = load_file(budget.file("latents"))
    vocabulary = vocabulary_ids()
    unet, text = parts.new_unet(), parts.new_text_encoder(vocabulary)
    begin(budget, unet, "model.diffusion_model")
    begin(budget, text, "text", **vocabulary_rows(budget))
    unet = unet.to(memory_format=torch.channels_last)
    levels = alphas_cumprod().float()
    options = {"optimized_attention_override": plain_attention}
    batch = 16
    distinct, inverse = torch.unique(
        torch.cat([data["ids"].flatten(0, 1).long(), data["empty"][None]]), dim=0,
        return_inverse=True)
    distinct = torch.searchsorted(vocabulary, distinct)
    log.info("%d distinct captions", len(distinct))
    rows = inverse[:-1].view(len(data["latents"]), CAPTIONS_A_SCENE)

    def loss_of(step: int) -> Tensor:
        pick = torch.randint(len(rows), (batch,))
        caption = rows[pick, torch.randint(CAPTIONS_A_SCENE, (batch,))]
        caption = torch.where(torch.rand(batch) < 0.1, inverse[-1], caption)
        clean = data["latents"][pick].float()
        t = (torch.arange(batch) * 1000 // batch + torch.randint(0, 1000, ())) % 1000
        level = levels[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        with autocast():
            context = text(distinct[caption])[0]
            noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
            found = unet(noisy.contiguous(memory_format=torch.channels_last), t, context=context,
                         transformer_options=options)
        ratio = level / (1 - level)
        weight = (SIGNAL_TO_NOISE_LIMIT / ratio).clamp(max=1)
        return (weight * (found.float() - noise).square()).mean()

    return train("diffusion", budget, {"unet": unet, "text": text}, 1e-3, loss_of)


def train_vision(budget: Budget) -> bool:
    """Stage 4: the vision tower learns, by contrast, to agree with the frozen text encoder."""
    vocabulary = vocabulary_ids()
    text = trained_text(budget, vocabulary)
    tower = parts.new_vision_tower()
    tokens = parts.tokenizer()
    project = torch.nn.Linear(128, 128, bias=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))

    def loss_of(step: int) -> Tensor:
        source = scenes.random_scenes(DATA_SEED - 1 - step)
        drawn = take(source, 64)
        ids = parts.token_ids(tokens, [scenes.caption(s) for s in drawn])
        with torch.no_grad():
            sentence = text(torch.searchsorted(vocabulary, ids))[2]
        with autocast():
            image = tower((pixels(drawn) - mean) / std)[2]
        a = F.normalize(image.float(), dim=-1)
        b = F.normalize(project(sentence.float()), dim=-1)
        scores = 20 * a @ b.T
        same = (ids[:, None] == ids[None]).all(-1).float()
        wanted = same / same.sum(-1, keepdim=True)
        return F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)

    return train("vision", budget, {"vision": tower, "project": project}, 1e-3, loss_of)


def train_judge(budget: Budget) -> bool:
    """Stage 5: the classifier of drawn scenes, hardened by blur and noise; writes its file."""
    drawn = take(scenes.single_scenes(DATA_SEED), JUDGE_SCENES)
    images = torch.cat([(pixels(drawn[i : i + 100]) * 255).round().byte()
                        for i in range(0, len(drawn), 100)])
    right, network = judge.truth(drawn), judge.Judge()

    def loss_of(step: int) -> Tensor:
        pick = torch.randint(len(images), (48,))
        batch = images[pick].float() / 255
        batch = batch.flip(-1) if step % 2 else batch
        blurred = F.avg_pool2d(F.pad(batch, (1, 1, 1, 1), mode="replicate"), 3, 1)
        batch = torch.lerp(batch, blurred, torch.rand(48, 1, 1, 1))
        batch = batch + 0.06 * torch.rand(48, 1, 1, 1) * torch.randn_like(batch)
        with autocast():
            logits = network(batch)
        return judge.loss(logits.float(), {q: answers[pick] for q, answers in right.items()})

    done = train("judge", budget, {"judge": network}, 2e-3, loss_of)
    state = averaged("judge", budget, "judge", judge.Judge()).state_dict()
    save_checkpoint(judge.WEIGHTS, {k: v.half() for k, v in state.items()}, {
        "title": "Judge of demo scenes", "licence": "MIT", "seed": str(budget.seed),
        "data_version": str(scenes.VERSION),
        "command": f"python -m training.train --stage judge --steps {budget.steps}"})
    return done


STAGES = {"vae": (train_vae, 6000), "decoder": (train_decoder, 4000),
          "latents": (encode_latents, 0), "diffusion": (train_diffusion, 4500),
          "vision": (train_vision, 400), "judge": (train_judge, 700), "export": (export, 0)}


def main() -> None:
    """Run one stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stage", choices=list(STAGES), required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("checkpoints"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--scenes", type=int, default=LATENT_SCENES, help="of stage latents")
    parser.add_argument("--weights", type=Path, help="an exported model to go on from")
    wanted = parser.parse_args(host_path.own_arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    wanted.out.mkdir(parents=True, exist_ok=True)
    stage, steps = STAGES[wanted.stage]
    torch.manual_seed(wanted.seed)
    done = stage(Budget(
        wanted.out, wanted.seed, wanted.steps or steps, wanted.minutes, wanted.weights,
        wanted.scenes))
    raise SystemExit(0 if done else 3)


if __name__ == "__main__":
    main()
