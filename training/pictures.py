"""Stages that prepare data: scenes drawn ahead by all cores, then their latents."""

from __future__ import annotations

import logging
import os
import random
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from demo import drawing, scenes
from demo import model as parts

from .data import Budget, save_checkpoint, take
from .device import DEVICE, LAYOUT, autocast
from .exporting import trained_vae
from .vae import quality

log = logging.getLogger("training.train")
DATA_SEED = 20260101
CAPTIONS_A_SCENE = 6
CHUNK = 500


def draw_pictures(budget: Budget) -> bool:
    """Draw every training scene, and write its captions' token ids down.

    Keeps pictures uint8 [N, 3, 128, 128], whether each is a sketch [N], ids [N, 6, 77] and those
    of the empty prompt.
    """
    source, rng = scenes.random_scenes(DATA_SEED), random.Random(DATA_SEED)
    drawn = take(source, budget.scenes)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        chunks = list(pool.map(
            _drawn, (drawn[i : i + CHUNK] for i in range(0, len(drawn), CHUNK))))
    tokens = parts.tokenizer()
    texts = [scenes.random_caption(s, rng) for s in drawn for _ in range(CAPTIONS_A_SCENE)]
    ids = parts.token_ids(tokens, texts).to(torch.int32)
    save_checkpoint(budget.file("pictures"), {
        "pictures": torch.from_numpy(np.concatenate(chunks)),
        "sketch": torch.tensor([s.style == "sketch" for s in drawn]),
        "ids": ids.view(len(drawn), CAPTIONS_A_SCENE, -1),
        "empty": parts.token_ids(tokens, [""])[0],
    }, {"data_version": str(scenes.VERSION)})
    log.info("%d pictures", len(drawn))
    return True


def _drawn(some: list[scenes.Scene]) -> np.ndarray:
    return np.stack([np.asarray(drawing.draw(s)).transpose(2, 0, 1) for s in some])


@torch.no_grad()
def encode_latents(budget: Budget) -> bool:
    """Every picture's latents [N, 4, 16, 16], by the VAE as it is trained now."""
    vae = trained_vae(budget).to(DEVICE, memory_format=LAYOUT)
    log.info("VAE round trip in dB: %s", quality(vae))
    data = load_file(budget.file("pictures"))
    latents: list[Tensor] = []
    for some in data.pop("pictures").split(100):
        with autocast():
            images = (some.to(DEVICE).float() / 255).contiguous(memory_format=LAYOUT)
            latents.append(vae.taesd_encoder(images).half().cpu())
    save_checkpoint(budget.file("latents"), {
        "latents": torch.cat(latents), "ids": data["ids"], "empty": data["empty"]}, {})
    return True
