"""Learning as it is written when nothing is saved: the shape of the published loop.

The UNet's weights collect gradients; every cross-attention layer encodes the image again and runs
the mapping network for itself; every attention map of every layer is made and kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stylediffusion.host.attention import attention_map
from stylediffusion.method.ddim import guide, transfer
from stylediffusion.method.layers import AttentionLayer
from stylediffusion.method.value_embedding import Mapping

from .subjects import Subject


class TextbookLearning:
    """One inner step: forward, both losses, backward, Adam."""

    def __init__(
        self, subject: Subject, model: Any, sigma: Tensor, mapping: Mapping,
        layers: tuple[AttentionLayer, ...], supervising: tuple[AttentionLayer, ...],
    ) -> None:
        self.subject, self.model, self.sigma, self.mapping = subject, model, sigma, mapping
        self.supervising = {(x.block, x.number) for x in supervising}
        self.optimizer = torch.optim.Adam(mapping.parameters(), lr=1e-2)
        self.maps: dict[tuple[str, str, int], Tensor] = {}
        keys = [(x.block, x.number) for x in layers]
        self.options = {
            "cond_or_uncond": [0], "sigmas": sigma, "sample_sigmas": sigma,
            "patches": {"attn2_patch": [self.value]},
            "patches_replace": {name: {key: self.materialised(name) for key in keys}
                                for name in ("attn1", "attn2")},
        }

    def value(self, n: Tensor, context: Tensor, value: Tensor, extra: Any) -> Any:
        """The image is encoded, and M run, in every layer."""
        found = self.subject.tower(self.subject.pixels, intermediate_output=-2)[0]
        scale, shift = self.mapping(self.subject.tower.vision_model.post_layernorm(found))
        return n, context, value * scale + shift

    def materialised(self, name: str) -> Any:
        """Attention that makes its map and keeps it."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Tensor:
            found = attention_map(q, k, extra)
            self.maps[(name, *extra["block"])] = found
            heads = v.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2)
            return (found @ heads).transpose(1, 2).flatten(2)

        return attend

    def step(self, latent: Tensor, uncond: Tensor, wanted: Tensor, maps: list[Tensor],
             alphas: tuple[float, float], guidance: float) -> float:
        """Returns the loss; `maps` are what the supervising layers' maps should be."""
        unet = self.subject.model.model.diffusion_model.requires_grad_(True)
        sigma = float(self.sigma)
        x = latent * (1 + sigma**2) ** 0.5
        clean = self.subject.model.model.apply_model(
            x, self.sigma, c_crossattn=self.subject.positive[0][0],
            transformer_options=self.options)
        noise = guide(uncond, (x - clean) / sigma, guidance)
        loss = (transfer(latent, noise, *alphas) - wanted).square().mean()
        found = [value[0] for (name, *block), value in self.maps.items()
                 if name == "attn2" and tuple(block) in self.supervising]
        for own, aim in zip(found, maps, strict=True):
            loss = loss + (own - aim).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        unet.requires_grad_(False)
        return float(loss.detach())
