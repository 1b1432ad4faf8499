"""Which pixels a measure looks at, and what goes with what."""

from __future__ import annotations

import torch
from torch import Tensor

WHOLE, UNMASKED, EDITED, AS_PUBLISHED = "whole", "unmasked", "edited", "as published"

Values = list[float | None]


def require_same_size(reference: Tensor, edit: Tensor, mask: Tensor | None = None) -> int:
    """The number of pictures to compare; raises ValueError naming sizes or batches that differ.

    Nothing is resized: a measure of a resized picture is another measure.
    """
    for name, other in (("edit", edit), ("mask", mask)):
        if other is not None and other.shape[1:3] != reference.shape[1:3]:
            raise ValueError(
                f"the reference is {size(reference)} pixels but the {name} is {size(other)}; give "
                "both at one size, with the host's Upscale Image for example: nothing is resized "
                "here, since that alone would change the figures")
    counts = {len(reference), len(edit), *(() if mask is None else (len(mask),))} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"{len(reference)} reference pictures, {len(edit)} edits"
            f"{'' if mask is None else f' and {len(mask)} masks'} do not go together; give as many "
            "of each, or one for all")
    return counts.pop() if counts else 1


def size(pictures: Tensor) -> str:
    """Width x height of [B, H, W, ...]."""
    return f"{pictures.shape[2]}x{pictures.shape[1]}"


def hard(mask: Tensor) -> Tensor:
    """bool [B, H, W]: more than half of the pixel is painted."""
    return (mask > 0.5).cpu()


def partly_masked(mask: Tensor, count: int) -> list[bool]:
    """For each picture whether its mask [B, H, W] is neither empty nor full."""
    painted = hard(mask).flatten(1)
    usable = painted.any(1) & ~painted.all(1)
    return [bool(told) for told in usable.expand(count)]


def without_edit(pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures times 1 - mask, as published tables have them."""
    return pictures * ~hard(mask).unsqueeze(-1)


def without_alpha(pictures: Tensor) -> Tensor:
    """The first three channels, in double precision, which some devices lack."""
    return pictures[..., :3].to("cpu", torch.float64)


def mean(values: Values) -> float | None:
    """The mean of the numbers there are; None where there is none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
