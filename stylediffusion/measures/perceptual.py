"""LPIPS (Zhang et al. 2018), version 0.1, and what others made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .regions import Values, partly_masked, require_same_size, without_alpha

Network = Callable[[Tensor, Tensor], list[Tensor]]

MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TAPS = {"alex": (1, 4, 7, 9, 11), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
PIE_SIDE, NS_SIDE = 512, 256


class Perceptual(nn.Module):
    """Two batches [B, 3, h, w] to the distances of every place in each layer, [B, 1, h', w'].

    `features` are torchvision's, `weights` the learned ones of the channels, a [C] a layer. Inputs
    are meant to be -1..1.
    """

    def __init__(self, name: str, features: nn.Sequential, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.features, self.taps = features, TAPS[name]
        for i, row in enumerate(weights):
            self.register_buffer(f"weight{i}", row)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        seen = zip(self.directions(first), self.directions(second), strict=True)
        return [((one - other).square() * self.get_buffer(f"weight{i}").view(-1, 1, 1))
                .sum(1, keepdim=True) for i, (one, other) in enumerate(seen)]

    def directions(self, images: Tensor) -> list[Tensor]:
        """What each layer sees, its channels divided by their length."""
        mean, std = (torch.tensor(row, device=images.device).view(3, 1, 1) for row in (MEAN, STD))
        values, x = [], (images - mean) / std
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                values.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
            if i == self.taps[-1]:
                break
        return values


def build(name: str, trunk: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Perceptual:
    """LPIPS of "alex" or "squeeze" from torchvision's tensors and those of lpips v0.1.

    Raises KeyError for a tensor that is missing, RuntimeError for one of another shape.
    """
    from torchvision import models

    with torch.device("meta"):
        whole = models.alexnet() if name == "alex" else models.squeezenet1_1()
    features: nn.Sequential = whole.features
    features.load_state_dict(
        {key: trunk[f"features.{key}"].float() for key in features.state_dict()}, assign=True)
    rows = [weights[f"lin{i}.model.1.weight"].float().flatten() for i in range(len(TAPS[name]))]
    return Perceptual(name, features, rows).eval().requires_grad_(False)


def lpips(network: Network, reference: Tensor, edit: Tensor) -> Values:
    """LPIPS as PIE-Bench takes it: pictures [B, H, W, 3] at 512x512, x * 2 - 1.

    PIE-Bench's `network` is squeeze. Raises ValueError for sizes that differ.
    """
    count = require_same_size(reference, edit)
    first, second = (at_square(pictures, PIE_SIDE) * 2 - 1 for pictures in (reference, edit))
    return mean_distance(network(first.expand(count, -1, -1, -1), second.expand(
        count, -1, -1, -1)))


def lpips_unmasked(network: Network, reference: Tensor, edit: Tensor, mask: Tensor) -> Values:
    """Spatial LPIPS at 512x512, x * 2 - 1, its mean weighted by 1 - mask [B, H, W].

    None where the mask is empty or full.
    """
    count = require_same_size(reference, edit, mask)
    first, second = (at_square(pictures, PIE_SIDE).expand(count, -1, -1, -1) * 2 - 1
                     for pictures in (reference, edit))
    distance = torch.stack([
        F.interpolate(layer, (PIE_SIDE, PIE_SIDE), mode="bilinear", align_corners=False)
        for layer in network(first, second)]).sum(0)
    weight = 1 - at_square(mask.unsqueeze(-1), PIE_SIDE).to(distance).expand(count, -1, -1, -1)
    values = (distance * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    return [float(value) if use else None
            for value, use in zip(values, partly_masked(mask, count), strict=True)]


def ns_lpips(network: Network, reference: Tensor, edit: Tensor, looked_at: Tensor) -> Values:
    """NS-LPIPS as the released code takes it: at 256x256, on 0..1 WITHOUT x * 2 - 1.

    Both pictures are multiplied by 1 - map, where `looked_at` [B, h, w] is the mean cross-attention
    of the source's blend word, and the map is that over its maximum, resized bilinearly. `network`
    is alex. None where nothing, or all alike, is looked at.
    """
    count = require_same_size(reference, edit)
    peak = looked_at.flatten(1).amax(1)
    scaled = looked_at / peak.clamp(min=torch.finfo(peak.dtype).tiny).view(-1, 1, 1)
    kept = 1 - at_square(scaled.unsqueeze(-1), NS_SIDE)
    first, second = ((at_square(pictures, NS_SIDE) * kept).expand(count, -1, -1, -1)
                     for pictures in (reference, edit))
    usable = ((peak > 0) & (scaled.flatten(1).amin(1) < 1)).expand(count)
    return [value if use else None for value, use in zip(
        mean_distance(network(first, second)), usable, strict=True)]


def mean_distance(layers: list[Tensor]) -> Values:
    """The means over all places [B, 1, h, w], summed over layers."""
    total = torch.stack([layer.mean((1, 2, 3)) for layer in layers]).sum(0)
    return [float(value) for value in total]


def at_square(pictures: Tensor, side: int) -> Tensor:
    """[B, H, W, C] as float [B, C, side, side], resized bilinearly with antialiasing."""
    images = without_alpha(pictures).float().movedim(-1, 1)
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True,
                         align_corners=False)
