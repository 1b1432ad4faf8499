"""Pictures on their way to a server and back: sizes, tensors, masks, and files that say all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .rows import PIE_SIDE

CELL = 8  # pixels of a latent's cell
KEY = "stylediffusion_edit"
SIXTEEN_BITS = 65535


def prepared(data: bytes, side: int) -> bytes:
    """A picture file as PNG, upright, in the area of side * side and in whole latent cells.

    The shape is kept to the nearest cell. Nothing is resampled where the size fits already. Raises
    OSError for what is no picture, a damaged one, or one over Pillow's limit.
    """
    image = _upright(data)
    factor = side / (image.width * image.height) ** 0.5
    size = tuple(max(CELL, round(length * factor / CELL) * CELL) for length in image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return png(image)


def _upright(data: bytes) -> Image.Image:
    """A picture file as RGB; of damaged ones Pillow raises almost anything."""
    try:
        with Image.open(io.BytesIO(data)) as found:
            return _of_8_bits(ImageOps.exif_transpose(found)).convert("RGB")
    except UnidentifiedImageError:
        raise OSError("it is no picture file that Pillow knows") from None
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"Pillow gives it up, {type(error).__name__}: {error}") from error


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow converts to white, scaled; any other picture as it is."""
    if not image.mode.startswith("I"):
        return image
    light = np.asarray(image, dtype=np.float32).clip(0, SIXTEEN_BITS) / SIXTEEN_BITS
    return Image.fromarray((light * 255).round().astype(np.uint8))


def png(image: Image.Image, told: dict[str, Any] | None = None) -> bytes:
    """An image as a PNG file, with what is told of it."""
    info, buffer = PngInfo(), io.BytesIO()
    if told is not None:
        info.add_text(KEY, json.dumps(told))
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def told(file: Path | io.BytesIO) -> dict[str, Any] | None:
    """What one of our files says of itself; None where it is missing, broken or another's."""
    try:
        with Image.open(file) as image:
            found = json.loads(image.info[KEY])
            return found if isinstance(found, dict) else None
    except (OSError, KeyError, ValueError, Image.DecompressionBombError):
        return None


def opened(data: bytes) -> Image.Image:
    """A picture file as RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def tensor(data: bytes) -> Tensor:
    """A picture file as [1, H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(opened(data), dtype=np.float32) / 255)[None]


def mask(runs: tuple[int, ...]) -> Tensor:
    """PIE-Bench's mask [1, 512, 512] from (start, length) runs, its border forced to 1."""
    flat = torch.zeros(PIE_SIDE * PIE_SIDE)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = 1
    found = flat.view(1, PIE_SIDE, PIE_SIDE)
    found[:, [0, -1], :] = 1
    found[:, :, [0, -1]] = 1
    return found
