"""How well pictures agree with their prompts: CLIPScore and directional CLIP similarity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import Values, hard, partly_masked, require_same_size, without_alpha

EmbedImages = Callable[[Tensor], Tensor]
EmbedTexts = Callable[[Sequence[str]], Tensor]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIDE = 224
SAME = 1e-5  # what a batch of another size changes in a tower's embeddings


class Clip(NamedTuple):
    """CLIP's two towers, each with its projection."""

    images: EmbedImages
    texts: EmbedTexts


def clip_score(
    images: EmbedImages, texts: EmbedTexts, edit: Tensor, prompts: Sequence[str],
    mask: Tensor | None = None,
) -> Values:
    """100 * cos between pictures [B, H, W, 3] and their target prompts, no template, at least 0.

    With a mask [B, H, W], of uint8(picture * mask): the edited region alone, as PIE-Bench has it;
    None where the mask is empty or full. `images` embeds pictures in 0..1, `texts` prompts, as
    [B, d]. One prompt goes with all pictures, or one picture with all prompts.
    """
    count = max(require_same_size(edit, edit, mask), len(prompts))
    pictures = edit if mask is None else masked_bytes(edit, mask)
    cosines = F.cosine_similarity(images(pictures).double(), texts(prompts).double(), dim=-1)
    usable = [True] * count if mask is None else partly_masked(mask, count)
    return [max(0.0, 100 * float(cosine)) if use else None
            for cosine, use in zip(cosines.expand(count), usable, strict=True)]


def masked_bytes(pictures: Tensor, mask: Tensor) -> Tensor:
    """uint8(picture * mask), as pictures in 0..1."""
    painted = hard(mask).unsqueeze(-1)
    return ((without_alpha(pictures) * 255).round() * painted).float() / 255


def directional_similarity(
    images: EmbedImages, texts: EmbedTexts, reference: Tensor, edit: Tensor,
    source_prompts: Sequence[str], target_prompts: Sequence[str],
) -> Values:
    """cos(E(edit) - E(reference), T(target) - T(source)) (Gal et al. 2021), -1..1.

    Embeddings have length 1 before they are subtracted. None where the two prompts, or the two
    pictures, are the same.
    """
    count = require_same_size(reference, edit)
    of_pictures = (F.normalize(images(edit).double(), dim=-1)
                   - F.normalize(images(reference).double(), dim=-1)).expand(count, -1)
    of_words = (F.normalize(texts(target_prompts).double(), dim=-1)
                - F.normalize(texts(source_prompts).double(), dim=-1)).expand(count, -1)
    moved = (of_pictures.norm(dim=-1) > SAME) & (of_words.norm(dim=-1) > SAME)
    cosines = F.cosine_similarity(of_pictures, of_words, dim=-1)
    return [float(cosine) if use else None for cosine, use in zip(cosines, moved, strict=True)]


def clip_pixels(pictures: Tensor, side: int = SIDE) -> Tensor:
    """CLIP's own preparation of pictures [B, H, W, 3]: the middle square, bicubic, normalised."""
    images = without_alpha(pictures).float().movedim(-1, 1)
    height, width = images.shape[-2:]
    wanted = (side, int(side * width / height)) if height <= width else (
        int(side * height / width), side)
    if (height, width) != wanted:
        images = F.interpolate(images, wanted, mode="bicubic", antialias=True,
                               align_corners=False)
    top, left = ((length - side) // 2 for length in wanted)
    images = (images.clamp(0, 1) * 255).round() / 255
    cut = images[..., top : top + side, left : left + side]
    mean, std = (torch.tensor(row, device=cut.device).view(3, 1, 1) for row in (MEAN, STD))
    return (cut - mean) / std
