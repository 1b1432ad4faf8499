"""Labelled sheets of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .editing import picture

TILE = 256
MARGIN = 16
LINE = 20
PAPER, INK, PALE = (255, 255, 255), (24, 24, 28), (110, 110, 118)

Tile = tuple[str, str, Tensor]


def sheet(title: str, rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Rows of pictures [H, W, 3] under headings; every picture has a name and a remark below."""
    widest = max(len(tiles) for _, tiles in rows)
    row_height = LINE + 6 + TILE + 2 * LINE + MARGIN
    width = MARGIN + widest * (TILE + MARGIN)
    image = Image.new("RGB", (width, 2 * MARGIN + LINE + len(rows) * row_height), PAPER)
    pen = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(18), ImageFont.load_default(13)
    pen.text((MARGIN, MARGIN - 4), title, INK, large)
    for r, (heading, tiles) in enumerate(rows):
        top = 2 * MARGIN + LINE + r * row_height
        pen.text((MARGIN, top), heading, INK, ImageFont.load_default(15))
        for c, (name, remark, content) in enumerate(tiles):
            left, upper = MARGIN + c * (TILE + MARGIN), top + LINE + 6
            shown = picture(content).resize((TILE, TILE), Image.Resampling.LANCZOS)
            image.paste(shown, (left, upper))
            pen.text((left, upper + TILE + 3), name, INK, small)
            pen.text((left, upper + TILE + 3 + LINE - 2), remark, PALE, small)
    return image
