"""How strongly tokens and channels of the value input tell: the fast preset's scale."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor, nn

from ...method.data import CONDITIONAL
from ...method.layers import AttentionLayer
from ...method.value_embedding import CHUNK_TOKENS
from ..attention import (
    AttentionReplacement,
    ExtraOptions,
    attention_map,
    branch_rows,
    fused_attention,
)


class TokenGram:
    """Sums A^T A [77, 77] over heads, cells and layers, one layer's map at a time.

    Chunks of a longer prompt have the same table and are folded together.
    """

    def __init__(self) -> None:
        self.gram = torch.zeros(())

    def replacement(self, layer: AttentionLayer) -> AttentionReplacement:
        """The attention of one layer as it is, seen on the way; layers count alike."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: ExtraOptions) -> Tensor:
            for branch, rows in branch_rows(len(q), extra["cond_or_uncond"]):
                if branch == CONDITIONAL:
                    maps = attention_map(q[rows], k[rows], extra)
                    maps = maps.unflatten(-1, (-1, CHUNK_TOKENS)).sum(-2)
                    maps = maps.reshape(-1, CHUNK_TOKENS)
                    gram = maps.T @ maps
                    self.gram = self.gram.to(gram.device) + gram / gram.trace()
            return fused_attention(q, k, v, extra)

        return attend


@torch.no_grad()
def channel_gram(diffusion_model: nn.Module, like: Tensor) -> Tensor:
    """Sum over cross-attention layers of W W^T [d, d], W = W_v W_out, each at trace 1.

    The layers are called, not read: LoRAs, casts and offloading are theirs. `like` [..., d] says
    width, dtype and device.
    """
    width = like.shape[-1]
    unit = torch.eye(width, dtype=like.dtype, device=like.device)
    gram = torch.zeros(width, width, device=like.device)
    for block in diffusion_model.modules():
        if isinstance(block, BasicTransformerBlock) and block.attn2 is not None:
            layer: Any = block.attn2
            values = layer.to_v(unit)
            written = (layer.to_out(values) - layer.to_out(torch.zeros_like(values[:1]))).float()
            layer_gram = written @ written.T
            gram += layer_gram / layer_gram.trace()
    return gram
