"""The mapping networks M_t: from image tokens to the scale and shift of the value input.

Section 3.2 of the paper. The value input of cross-attention is c * s + b instead of the prompt
embedding c; the key input stays c.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

CHUNK_TOKENS = 77
HIDDEN_ROWS = 2 * CHUNK_TOKENS
SCALE_AND_SHIFT, PLAIN = "scale and shift", "plain"
FORMS = (SCALE_AND_SHIFT, PLAIN)


def scale_and_shift(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(s, b) [77, d] of what M_t gives: [154, d] holds both; [77, d] is the paper's plain form.

    The plain form, in which the value input is M_t(E(x)) alone, is s = 0 and b = M_t(E(x)).
    """
    if len(rows) == CHUNK_TOKENS:
        return torch.zeros_like(rows), rows
    scale, shift = rows.chunk(2)
    return scale, shift


def start_rows(form: str, context: Tensor) -> Tensor:
    """Rows under which the value input is the prompt embedding [1, 77 * m, d] as it is.

    The plain form starts from the first chunk. Raises ValueError for an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"form is '{form}', but must be one of {', '.join(FORMS)}")
    first = context[0, :CHUNK_TOKENS].float()
    if form == PLAIN:
        return first.clone()
    return torch.cat([torch.ones_like(first), torch.zeros_like(first)])


class MappingNetwork(nn.Module):
    """M_t: image tokens [1, n, d_image] -> scale and shift [77, d], by convolutions over tokens.

    Two 1x1 convolutions, a batch normalisation that always uses the statistics of the one image,
    LeakyReLU, one more convolution to 2 * 77 rows, or 77 in the plain form. Where the image tokens
    have another width than the prompt embedding, one linear layer in front makes them fit.
    """

    def __init__(self, tokens: int, token_width: int, width: int, rows: int) -> None:
        super().__init__()
        self.fit = nn.Identity() if token_width == width else nn.Linear(token_width, width)
        self.conv_start = nn.Conv1d(tokens, HIDDEN_ROWS, 1)
        self.conv_block = nn.Sequential(
            nn.Sequential(
                nn.Conv1d(HIDDEN_ROWS, HIDDEN_ROWS, 1),
                nn.BatchNorm1d(HIDDEN_ROWS, track_running_stats=False),
                nn.LeakyReLU(0.01),
            )
        )
        self.conv_end = nn.Conv1d(HIDDEN_ROWS, rows, 1)

    def forward(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.conv_end(self.conv_block(self.conv_start(self.fit(image_tokens))))
        return scale_and_shift(rows[0])


class FreeRows(nn.Module):
    """M_t without an image: its rows [154 or 77, d] themselves are the parameters."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.detach().clone())

    def forward(self, image_tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return scale_and_shift(self.rows)


Mapping = MappingNetwork | FreeRows


def make_mapping(context: Tensor, image_tokens: Tensor | None, seed: int, form: str) -> Mapping:
    """M for image tokens [1, n, d_image], or free rows where there are none.

    Torch's default initialisation from a CPU generator, so that a seed means the same everywhere.
    Raises ValueError for an unknown form.
    """
    rows = start_rows(form, context)
    if image_tokens is None:
        return FreeRows(rows)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
        return MappingNetwork(
            image_tokens.shape[1], image_tokens.shape[2], rows.shape[1], len(rows))


def successor(mapping: Mapping) -> Mapping:
    """M_i starts as a copy of M_(i-1)."""
    return copy.deepcopy(mapping)


def value_input(context: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """c * s + b for prompt embeddings [..., 77 * m, d] and tables [77, d] or [..., 77, d].

    Every 77-token chunk gets the same s and b. Always a new tensor, in the dtype of s; the prompt
    embedding itself is left alone.
    """
    chunks = context.unflatten(-2, (-1, CHUNK_TOKENS))
    return (chunks * scale.unsqueeze(-3) + shift.unsqueeze(-3)).flatten(-3, -2)
