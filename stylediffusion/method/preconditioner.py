"""Coordinates in which every direction of the value input counts about alike.

What a change delta [77, d] of the value input does to a cross-attention layer is A delta W: A its
attention map, W its value and output projections. So the curvature of the loss is nearly the
Kronecker product of A^T A and W W^T, summed over layers (Martens and Grosse 2015), and with
delta = T X C, where T and C are their inverse square roots, nearly a multiple of one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .value_embedding import PLAIN

TOKEN_DAMPING, CHANNEL_DAMPING = 1e-2, 1e-3


def inverse_root(gram: Tensor, damping: float) -> Tensor:
    """(G + damping * mean eigenvalue)^(-1/2) of a symmetric G [n, n], at mean eigenvalue 1.

    In fp64, where G lies if that is a CUDA device, else on the CPU: others have none.
    """
    gram = (gram if gram.device.type == "cuda" else gram.cpu()).double()
    gram = gram / gram.diagonal().mean()
    values, vectors = torch.linalg.eigh(gram)
    root = (values.clamp(min=0) + damping).rsqrt()
    return ((vectors * root) @ vectors.T).float()


def token_root(gram: Tensor) -> Tensor:
    """T [77, 77] of a sum of A^T A."""
    return inverse_root(gram, TOKEN_DAMPING)


def channel_root(gram: Tensor) -> Tensor:
    """C [d, d] of a sum of W W^T, which is the same for all pictures."""
    return inverse_root(gram, CHANNEL_DAMPING)


def whitened_values(
    form: str, context: Tensor, tokens: Tensor, channels: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """From coordinates X [77, d] to (s, b) with c * s + b = c + T X C; X = 0 leaves c [77, d].

    The scale and shift that add a delta to c are those of the smallest squares:
    (1 + c r, r) with r = delta / (1 + c^2). In the plain form they are (0, c + delta).
    """
    tokens, channels = tokens.to(context), channels.to(context)

    def values(point: Tensor) -> tuple[Tensor, Tensor]:
        delta = tokens @ point @ channels
        if form == PLAIN:
            return torch.zeros_like(delta), context + delta
        shift = delta / (1 + context**2)
        return 1 + context * shift, shift

    return values
