"""The stages that train the VAE: both of its halves, or the decoder under a UNet that is there."""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from safetensors.torch import load_file
from torch import Tensor

from demo import model as parts
from demo import scenes

from .data import Budget, begin, fidelity, train
from .device import DEVICE, LAYOUT, ON_CPU, autocast, compiled

CROP, CELL, CANDIDATES = 64, 8, 3
CROPS = 12 if ON_CPU else 96
LATENT_NOISE = 0.1
CHROMA = torch.tensor([[-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])  # JPEG's Cb and Cr


class Crops:
    """64-pixel crops of the pictures drawn ahead, on the grid of latent cells.

    Five of eight are sketches, and of three places in a picture the one with most edges is
    taken: that is where the round trip still errs.
    """

    def __init__(self, budget: Budget) -> None:
        data = load_file(budget.file("pictures"))
        self.pictures = data["pictures"].to(DEVICE)
        self.styles = [data["sketch"].nonzero()[:, 0], (~data["sketch"]).nonzero()[:, 0]]

    def draw(self) -> Tensor:
        """[B, 3, 64, 64] in 0..1, chosen by torch's global generator."""
        counts = (CROPS * 5 // 8, CROPS - CROPS * 5 // 8)
        chosen = torch.cat([style[torch.randint(len(style), (count,))]
                            for style, count in zip(self.styles, counts, strict=True)])
        wholes = self.pictures[chosen.to(DEVICE)].float() / 255
        corners = torch.randint((scenes.SIZE - CROP) // CELL + 1, (CANDIDATES, CROPS, 2)) * CELL
        crops = torch.stack([_cropped(wholes, places) for places in corners.to(DEVICE)])
        most = edges(crops).mean((2, 3, 4)).argmax(0)
        rows = torch.arange(CROPS, device=DEVICE)
        return crops[most, rows].contiguous(memory_format=LAYOUT)


def _cropped(wholes: Tensor, corners: Tensor) -> Tensor:
    """Of each picture [B, 3, H, W] the square whose upper left corner is (y, x) of [B, 2]."""
    reach = torch.arange(CROP, device=wholes.device)
    ys, xs = (corners[:, i, None] + reach for i in (0, 1))
    rows = torch.arange(len(wholes), device=wholes.device)
    return wholes.movedim(1, -1)[rows[:, None, None], ys[:, :, None], xs[:, None]].movedim(-1, 1)


def edges(pictures: Tensor) -> Tensor:
    """|differences| of neighbours, both ways, at [..., H - 1, W - 1]."""
    across, down = pictures.diff(dim=-1)[..., :-1, :], pictures.diff(dim=-2)[..., :-1]
    return across.abs() + down.abs()


def picture_loss(back: Tensor, images: Tensor) -> Tensor:
    """L1 + RMSE of each, and L1 of edges and of chroma: colour that bleeds costs little in both."""
    error = back.float() - images
    chroma = einsum(CHROMA.to(error.device), error, "chroma rgb, b rgb h w -> b chroma h w")
    return (error.abs().mean() + error.square().mean((1, 2, 3)).sqrt().mean()
            + 0.5 * edges(error).mean() + 2 * chroma.abs().mean())


def train_vae(budget: Budget) -> bool:
    """The VAE, its latents held near zero mean and unit variance."""
    return _train("vae", budget, 1.5e-3, with_encoder=True)


def train_decoder(budget: Budget) -> bool:
    """The decoder alone, when a UNet has already been trained on the encoder's latents."""
    return _train("decoder", budget, 1e-3, with_encoder=False)


def _train(name: str, budget: Budget, learning_rate: float, with_encoder: bool) -> bool:
    """A new VAE, or the exported one a run starts from, in the layout that trains faster.

    The decoder hears latents with noise of up to 0.1, mostly less, as a UNet's are not exact.
    """
    vae = parts.new_vae()
    begin(budget, vae, "first_stage_model")
    vae, crops = vae.to(DEVICE, memory_format=LAYOUT), Crops(budget)
    encode, decode = (compiled(half, budget.compiled)
                      for half in (vae.taesd_encoder, vae.taesd_decoder))

    def loss_of(step: int) -> Tensor:
        images = crops.draw()
        with autocast():
            with torch.set_grad_enabled(with_encoder):
                latents = encode(images)
            level = LATENT_NOISE * torch.rand(len(images), 1, 1, 1, device=DEVICE).square()
            back = decode(latents + level * torch.randn_like(latents))
        loss = picture_loss(back, images)
        return loss + 0.02 * spread(latents) if with_encoder else loss

    module = vae if with_encoder else vae.taesd_decoder
    return train(name, budget, {name: module}, learning_rate, loss_of, lambda: str(quality(vae)))


def spread(latents: Tensor) -> Tensor:
    """How far the channels of latents [B, C, H, W] are from zero mean and unit deviation."""
    moments = latents.float().transpose(0, 1).flatten(1)
    return moments.mean(1).square().mean() + (moments.std(1) - 1).square().mean()


def quality(vae: Any) -> dict[str, float]:
    """What the log is told while a VAE learns."""
    return fidelity(lambda images: vae.taesd_decoder(vae.taesd_encoder(images.to(DEVICE))), 77, 24)
