"""Structure distance: how alike two pictures' parts are arranged, seen by a vision transformer.

Tumanyan et al. 2022: the keys of a late block, cosine similarities between all of them, and the
mean squared difference of two pictures' tables of similarities.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .regions import Values, require_same_size, without_alpha

Describe = Callable[[Tensor], Tensor]


def self_similarity(descriptors: Tensor) -> Tensor:
    """Cosine similarities [B, n, n] between all descriptors [B, n, d] of a picture."""
    directions = F.normalize(descriptors.double(), dim=-1, eps=1e-8)
    return directions @ directions.transpose(-1, -2)


def structure_distance(describe: Describe, reference: Tensor, edit: Tensor) -> Values:
    """Mean squared difference of self-similarities, of pictures [B, H, W, 3].

    `describe` gives the descriptors [B, n, d] of pictures in 0..1: `dino.py: keys` for the
    published figure, or any other features. Raises ValueError for sizes that differ.
    """
    count = require_same_size(reference, edit)
    first, second = (self_similarity(describe(without_alpha(pictures).float()))
                     for pictures in (reference, edit))
    difference = (first - second).square().flatten(1).mean(1)
    return difference.expand(count).tolist()


def spatial_descriptors(features: Tensor) -> Tensor:
    """Feature maps [B, C, h, w] of a convolutional network as descriptors [B, h w, C]."""
    return features.flatten(2).transpose(1, 2)


def at_most(pictures: Tensor, side: int, longest: int) -> Tensor:
    """[B, 3, h, w] with the shorter side at `side`, the longer one cut down to `longest`.

    torchvision's Resize(side, max_size=longest): bilinear, antialiased.
    """
    height, width = pictures.shape[-2:]
    short, long = min(height, width), max(height, width)
    new_short, new_long = side, int(side * long / short)
    if new_long > longest:
        new_short, new_long = int(longest * new_short / new_long), longest
    wanted = (new_short, new_long) if height <= width else (new_long, new_short)
    return F.interpolate(
        pictures, wanted, mode="bilinear", antialias=True, align_corners=False)
