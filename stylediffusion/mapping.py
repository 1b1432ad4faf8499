"""The mapping networks M_t: from image tokens to the scale and shift of the value input.

Section 3.2 of the paper. The value path of cross-attention hears c * s + b instead of the prompt
embedding c; the key path goes on hearing c.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

CHUNK_TOKENS = 77


class MappingNetwork(nn.Module):
    """M_t: image tokens [1, n, d_image] -> scale and shift [77, d], by convolutions over tokens.

    Two 1x1 convolutions, a batch normalisation that always uses the statistics of the one image,
    LeakyReLU, one more convolution to 2 * 77 rows. Where the image tokens have another width than
    the prompt embedding, one linear layer in front makes them fit.
    """

    def __init__(self, tokens: int, token_width: int, width: int) -> None:
        super().__init__()
        rows = 2 * CHUNK_TOKENS
        self.fit = nn.Identity() if token_width == width else nn.Linear(token_width, width)
        self.conv_start = nn.Conv1d(tokens, rows, 1)
        self.conv_block = nn.Sequential(
            nn.Sequential(
                nn.Conv1d(rows, rows, 1),
                nn.BatchNorm1d(rows, track_running_stats=False),
                nn.LeakyReLU(0.01),
            )
        )
        self.conv_end = nn.Conv1d(rows, rows, 1)

    def forward(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.conv_end(self.conv_block(self.conv_start(self.fit(image_tokens))))
        scale, shift = rows[0].chunk(2)
        return scale, shift


class FreeScaleShift(nn.Module):
    """Scale and shift [77, d] as free parameters, from s = 1, b = 0: M_t without an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CHUNK_TOKENS, width))
        self.shift = nn.Parameter(torch.zeros(CHUNK_TOKENS, width))

    def forward(self, image_tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.scale, self.shift


Mapping = MappingNetwork | FreeScaleShift


def make_mapping(width: int, image_tokens: Tensor | None, seed: int) -> Mapping:
    """M for image tokens [1, n, d_image], or free scale and shift where there are none.

    Torch's default initialisation from a CPU generator, so that a seed means the same everywhere.
    """
    if image_tokens is None:
        return FreeScaleShift(width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MappingNetwork(image_tokens.shape[1], image_tokens.shape[2], width)


def successor(mapping: Mapping) -> Mapping:
    """M_i starts as a copy of M_(i-1)."""
    return copy.deepcopy(mapping)


def value_input(context: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """c * s + b for prompt embeddings [..., 77 * m, d]; every 77-token chunk gets the same s, b.

    Always a new tensor, in the dtype of s; the prompt embedding itself is left alone.
    """
    chunks = context.unflatten(-2, (-1, CHUNK_TOKENS))
    return (chunks * scale + shift).flatten(-3, -2)
