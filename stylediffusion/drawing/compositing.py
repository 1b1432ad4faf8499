"""Edits laid into the photo they came from, whose other pixels stay as they are.

Pictures are [..., H, W, 3] in 0..1. A photo is encoded at a size that may be smaller than its own,
and the VAE cuts that to whole cells, from the middle; what it decodes is placed accordingly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

log = logging.getLogger("stylediffusion")
CELL = 8  # pixels a latent's cell is wide
INSIDE = 0.5
Size = tuple[int, int]


@dataclass(frozen=True)
class Composite:
    """`images` [n, H, W, 3]; `difference`, the largest to the photo where it is to be kept.

    `shares` says which part of its pixels each image keeps.
    """

    images: Tensor
    difference: float
    shares: tuple[float, ...]

    @property
    def report(self) -> str:
        """What the node shows."""
        kept = ", ".join(f"{100 * share:.1f} %" for share in self.shares)
        return f"difference outside the edits: {self.difference:g}\nkept of the photo: {kept}"


def keep_pixels(
    image: Tensor | None, edits: Tensor | None, mask: Tensor, feather: int
) -> Composite:
    """Decoded edits [n, h, w, 3] within their masks [n, h, w], the photo [1, H, W, 3] elsewhere.

    The mask is where it is at least 1/2. With one edit more than masks the first is the
    reconstruction, and becomes the photo. Masks may be of the photo's size as well. Raises
    ValueError for what does not belong together.
    """
    photo = _one_photo(image)
    decoded = _pictures(edits, "edits", "the pictures that VAE Decode makes of Sample's latent")
    masks = _masks(mask, len(decoded), _size(decoded[0]), _size(photo)).to(photo.device)
    size = encoded_size(photo, decoded[0])
    images = photo.expand(len(decoded), *photo.shape).clone()
    first = len(decoded) - len(masks)
    differences, shares = [0.0], [1.0] * first
    for number, (edit, shown) in enumerate(zip(decoded[first:], masks, strict=True), 1):
        _warn_of(shown, number)
        weight = edit_weight(shown, _size(edit), size, _size(photo), feather)
        whole = placed(rearrange(edit.to(photo), "h w c -> c h w"), size, _size(photo), "bicubic")
        image = composed(photo, rearrange(whole.clamp(0, 1), "c h w -> h w c"), weight)
        kept = weight == 0
        differences.append(float(((image - photo).abs().amax(-1) * kept).max()))
        shares.append(float(kept.float().mean()))
        images[first + number - 1] = image
    return Composite(images, max(differences), tuple(shares))


def composed(photo: Tensor, edit: Tensor, weight: Tensor) -> Tensor:
    """photo + weight * (edit - photo), [H, W, 3]; the photo's own values where weight is 0."""
    mixed = torch.lerp(photo, edit, weight[..., None].to(photo))
    return torch.where(weight[..., None] > 0, mixed, photo)


def feathered(region: Tensor, feather: int) -> Tensor:
    """(feather + 1 - d) / (feather + 1), at least 0, of a region [H, W]: 1 inside.

    d is the Chebyshev distance to the region in pixels, a diagonal step being one.
    """
    level = region.to(torch.int16)
    for _ in range(feather):
        region = _one_wider(_one_wider(region, 0), 1)
        level += region
    return level.float() / (feather + 1)


def _one_wider(region: Tensor, side: int) -> Tensor:
    wider, rest = region.clone(), region.shape[side] - 1
    wider.narrow(side, 1, rest).logical_or_(region.narrow(side, 0, rest))
    wider.narrow(side, 0, rest).logical_or_(region.narrow(side, 1, rest))
    return wider


def edit_weight(mask: Tensor, edits: Size, encoded: Size, full: Size, feather: int) -> Tensor:
    """How much each of a photo's pixels takes of an edit: [H, W] from its mask [h, w] or [H, W]."""
    if _size(mask) != full:
        mask = placed(mask[None], encoded, full, "bilinear")[0]
    rows, columns = (
        covered(*lengths).to(mask.device) for lengths in zip(edits, encoded, full, strict=True))
    there = rows[:, None] & columns
    return torch.where(there, feathered((mask >= INSIDE) & there, feather), 0.0)


def placed(decoded: Tensor, encoded: Size, full: Size, mode: str) -> Tensor:
    """What was decoded [C, h, w] at a photo's full size, after encoding at a smaller one.

    Beyond what the VAE had cropped, the values of the border are repeated.
    """
    (top, bottom), (left, right) = (
        _cropped(now, before) for now, before in zip(decoded.shape[1:], encoded, strict=True))
    padded = F.pad(decoded[None].float(), (left, right, top, bottom), mode="replicate")
    if encoded != full:
        padded = F.interpolate(padded, full, mode=mode, antialias=True)
    return padded[0].to(decoded.dtype)


def covered(length: int, encoded: int, full: int) -> Tensor:
    """Which of a photo's `full` rows have their middle in what the VAE left of `encoded` rows."""
    before, _ = _cropped(length, encoded)
    middle = (torch.arange(full) + 0.5) * encoded / full
    return (middle > before) & (middle < before + length)


def encoded_size(photo: Tensor, decoded: Tensor) -> Size:
    """The (height, width) at which a photo [H, W, 3] was encoded that gave decoded [h, w, 3].

    Its own size if the VAE would crop that so; else of the sizes that it would, and that have the
    photo's shape, the one at which the two are most alike. Raises ValueError for another shape.
    """
    full, edits = _size(photo), _size(decoded)
    if all(now <= before < now + CELL for now, before in zip(edits, full, strict=True)):
        return full
    sizes = _possible_sizes(full, edits)
    twice = tuple(min(before, 2 * now) for before, now in zip(full, edits, strict=True))
    grey = _resized(photo.float().mean(-1), twice)
    wanted = decoded.to(grey.device).float().mean(-1)
    return max(sizes, key=lambda size: _likeness(grey, size, wanted))


def _possible_sizes(full: Size, edits: Size) -> list[Size]:
    """First the decoded size itself, each side of it rounded to cells, then sizes to be cropped."""
    (height, width), (rows, columns) = full, edits
    if abs(rows * width - columns * height) >= CELL * (height + width):
        raise ValueError(
            f"the image is {width} x {height}, but the edits are {columns} x {rows}, another "
            "shape; connect the photo that was encoded, and crop it, if at all, before both"
        )
    near = [
        (rows + i, columns + j) for i in range(CELL) for j in range(CELL)
        if abs((rows + i) * width - (columns + j) * height) < height + width]
    return [edits, *(size for size in near if size != edits)]


def _likeness(grey: Tensor, size: Size, wanted: Tensor) -> float:
    """The correlation of a photo at some size, cropped, with a picture; 0 where one is flat."""
    (top, _), (left, _) = (
        _cropped(now, before) for now, before in zip(_size(wanted), size, strict=True))
    rows, columns = _size(wanted)
    seen = _resized(grey, size)[top : top + rows, left : left + columns]
    pair = [F.normalize((part - part.mean()).flatten(), dim=0) for part in (seen, wanted)]
    return round(float(pair[0] @ pair[1]), 6)


def _resized(grey: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(grey[None, None], size, mode="bicubic", antialias=True)[0, 0]


def _cropped(now: int, before: int) -> Size:
    """The pixels that the VAE took from a side's beginning and end."""
    return (before - now) // 2, before - now - (before - now) // 2


def _warn_of(mask: Tensor, number: int) -> None:
    inside = mask >= INSIDE
    if not inside.any():
        log.warning("mask %d is empty, so the photo stands in the place of edit %d; lower "
                    "blend_threshold in P2Plus Controller, or paint the region", number, number)
    elif inside.all():
        log.warning("mask %d covers the whole picture, so edit %d keeps nothing of the photo; name "
                    "blend_words in P2Plus Controller, or connect a mask there", number, number)


def _size(picture: Tensor) -> Size:
    """(height, width) of [H, W] or [H, W, 3]."""
    return picture.shape[0], picture.shape[1]


def _one_photo(image: Tensor | None) -> Tensor:
    photos = _pictures(image, "image", "Load Image")
    if len(photos) > 1:
        raise ValueError(
            f"image holds {len(photos)} pictures, but one is needed: the photo that was edited; "
            "pick it with ImageFromBatch"
        )
    return photos[0]


def _pictures(images: Tensor | None, name: str, source: str) -> Tensor:
    """An IMAGE [n, H, W, 3]; raises ValueError for none, and for what is not finite."""
    shape = None if images is None else tuple(images.shape)
    if images is None or images.ndim != 4 or 0 in images.shape or images.shape[-1] < 3:
        raise ValueError(
            f"{name} is {shape}, but pictures in colour, of shape (count, height, width, 3), are "
            f"needed; connect {source}, and see that it is neither muted nor bypassed"
        )
    if not torch.isfinite(images).all():
        raise ValueError(
            f"{name} has values that are not finite (NaN or inf): the node that made it "
            f"overflowed; connect {source}, and start ComfyUI with --fp32-vae"
        )
    return images[..., :3]


def _masks(mask: Tensor, count: int, edits: Size, full: Size) -> Tensor:
    """The masks [count or count - 1, h, w] or [.., H, W]; raises ValueError for any other."""
    masks = mask.reshape(-1, *mask.shape[-2:])
    if len(masks) not in (count, count - 1):
        raise ValueError(
            f"mask holds {len(masks)} masks, but the number of edits is {count}; connect Sample's "
            "mask, and all pictures that VAE Decode makes of its latent"
        )
    if _size(masks[0]) not in (edits, full):
        given, small, large = (f"{size[1]} x {size[0]}" for size in (_size(masks[0]), edits, full))
        raise ValueError(
            f"the mask is {given}, but the edits are {small} and the photo is {large}; connect "
            "Sample's mask, or one painted on the photo"
        )
    return masks
