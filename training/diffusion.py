"""The stage that trains the text encoder and the UNet on latents prepared before."""

from __future__ import annotations

import logging
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from demo import model as parts

from .data import Budget, begin, train
from .device import DEVICE, ON_CPU, autocast, compiled
from .exporting import vocabulary_ids, vocabulary_rows
from .pictures import CAPTIONS_A_SCENE

log = logging.getLogger("training.train")
BATCH = 32 if ON_CPU else 256
SIGNAL_TO_NOISE_LIMIT = 5.0


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


def min_snr_weight(level: Tensor) -> Tensor:
    """min(5 / SNR, 1) of alpha-bars: the weight of epsilon prediction by arXiv 2303.09556."""
    return (SIGNAL_TO_NOISE_LIMIT * (1 - level) / level).clamp(max=1)


def train_diffusion(budget: Budget) -> bool:
    """Epsilon prediction with min-SNR weights, one caption in ten dropped."""
    data = load_file(budget.file("latents"))
    vocabulary = vocabulary_ids()
    unet, text = parts.new_unet(), parts.new_text_encoder(vocabulary)
    begin(budget, unet, "model.diffusion_model")
    begin(budget, text, "text", **vocabulary_rows(budget))
    unet, text = unet.to(DEVICE, memory_format=torch.channels_last), text.to(DEVICE)
    predict = compiled(unet, budget.compiled)
    levels = alphas_cumprod().float().to(DEVICE)
    options = {"optimized_attention_override": plain_attention}
    distinct, inverse = torch.unique(
        torch.cat([data["ids"].flatten(0, 1).long(), data["empty"][None]]), dim=0,
        return_inverse=True)
    distinct = torch.searchsorted(vocabulary, distinct).to(DEVICE)
    log.info("%d distinct captions", len(distinct))
    latents, inverse = data["latents"].to(DEVICE), inverse.to(DEVICE)
    rows = inverse[:-1].view(len(latents), CAPTIONS_A_SCENE)

    spread = torch.arange(BATCH, device=DEVICE) * 1000 // BATCH

    def drawn(limit: int) -> Tensor:
        return torch.randint(limit, (BATCH,), device=DEVICE)

    def loss_of(step: int) -> Tensor:
        pick, which = drawn(len(rows)), drawn(CAPTIONS_A_SCENE)
        dropped = torch.rand(BATCH, device=DEVICE) < 0.1
        caption = torch.where(dropped, inverse[-1], rows[pick, which])
        clean = latents[pick].float()
        t = (spread + torch.randint(1000, (), device=DEVICE)) % 1000
        level = levels[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        with autocast():
            context = text(distinct[caption])[0]
            noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
            predicted = predict(noisy.contiguous(memory_format=torch.channels_last), t,
                                context=context, transformer_options=options)
        return (min_snr_weight(level) * (predicted.float() - noise).square()).mean()

    return train("diffusion", budget, {"unet": unet, "text": text}, 1e-3, loss_of)
