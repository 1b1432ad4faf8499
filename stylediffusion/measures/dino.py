"""DINO ViT-B/8 (Caron et al. 2021) from the tensors of Hugging Face's layout, as far as its keys.

The host knows DINO's second and third version, but not the first, which the figures are made with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .structure import at_most

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SIDE, LONGEST = 224, 480
HEAD_WIDTH = 64
EPSILON = 1e-12

State = Mapping[str, Tensor]


def keys(state: State, pictures: Tensor, times: float = 1.0) -> Tensor:
    """The last block's keys [B, tokens, d], heads side by side, of pictures [B, H, W, 3] in 0..1.

    Block 11 of ViT-B/8. Resized to 224 (785 tokens for a square) and normalised by ImageNet's mean
    and deviation. `times` 255 feeds what PIE-Bench's code does, which does not divide its pixels.
    """
    images = at_most(pictures.movedim(-1, 1) * times, SIDE, LONGEST)
    mean, std = (torch.tensor(rows, device=images.device).view(3, 1, 1) for rows in (MEAN, STD))
    return last_keys(state, (images - mean) / std)


def last_keys(state: State, images: Tensor) -> Tensor:
    """The last block's keys [B, tokens, d] of normalised images [B, 3, h, w]."""
    tokens = embed(state, images)
    last = blocks(state) - 1
    for block in range(last):
        tokens = run_block(state, f"encoder.layer.{block}.", tokens)
    name = f"encoder.layer.{last}."
    return linear(state, name + "attention.attention.key",
                  norm(state, name + "layernorm_before", tokens))


def embed(state: State, images: Tensor) -> Tensor:
    """Patches and the class token with their positions, [B, 1 + patches, d]."""
    weight = state["embeddings.patch_embeddings.projection.weight"]
    bias = state["embeddings.patch_embeddings.projection.bias"]
    patches = F.conv2d(images, weight, bias, stride=weight.shape[-1])
    positions = at_grid(state["embeddings.position_embeddings"], *patches.shape[-2:])
    first = state["embeddings.cls_token"].expand(len(images), -1, -1)
    return torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions


def at_grid(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings [1, 1 + n, d] of a square grid, resized (bicubic) to another."""
    side = math.isqrt(positions.shape[1] - 1)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[:, 1:].transpose(1, 2).unflatten(-1, (side, side))
    resized = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def run_block(state: State, name: str, tokens: Tensor) -> Tensor:
    """One block: attention and feed-forward, each on normed tokens and added to them."""
    seen = norm(state, name + "layernorm_before", tokens)
    heads = max(1, tokens.shape[-1] // HEAD_WIDTH)
    query, key, value = (
        linear(state, f"{name}attention.attention.{part}", seen).unflatten(-1, (heads, -1))
        .transpose(1, 2) for part in ("query", "key", "value"))
    attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    tokens = tokens + linear(state, name + "attention.output.dense", attended)
    hidden = linear(state, name + "intermediate.dense",
                    norm(state, name + "layernorm_after", tokens))
    return tokens + linear(state, name + "output.dense", F.gelu(hidden))


def blocks(state: State) -> int:
    """How many blocks the tensors hold."""
    return len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})


def linear(state: State, name: str, tokens: Tensor) -> Tensor:
    """x W^T + b."""
    return F.linear(tokens, state[name + ".weight"], state[name + ".bias"])


def norm(state: State, name: str, tokens: Tensor) -> Tensor:
    """Layer norm over the last axis."""
    weight = state[name + ".weight"]
    return F.layer_norm(tokens, weight.shape, weight, state[name + ".bias"], EPSILON)
