"""Labelled sheets of pictures, and heat laid over a picture; pictures are [H, W, 3] in 0..1."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALL, LARGE = 256, 512
NARROW = 160
NAME_LINES, REMARK_LINES, HEADING_LINES = 3, 2, 2
PAGE = 1.6
PAPER, INK, PALE = (255, 255, 255), (24, 24, 28), (110, 110, 118)
HEAT = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
GREY = (0.299, 0.587, 0.114)

Tile = tuple[str, str, Tensor]
Line = tuple[str, tuple[int, int, int]]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels: the cell that every picture stands in, and everything in its proportion."""

    width: int
    height: int

    def scaled(self, length: float) -> int:
        """A length of the sheet of small pictures, as large as it is on this one."""
        return round(length * max(1.0, max(self.width, self.height) / SMALL) ** 0.5)

    def font(self, size: float) -> Font:
        """The font at a size of the sheet of small pictures."""
        return ImageFont.load_default(self.scaled(size))

    @property
    def margin(self) -> int:
        """Around and between pictures."""
        return self.scaled(16)

    @property
    def line(self) -> int:
        """From one line of a label to the next."""
        return self.scaled(18)


def shown_size(height: int, width: int) -> tuple[int, int]:
    """How large a picture is drawn: its shape kept, its longer side between 256 and 512."""
    longest = max(height, width)
    factor = min(max(longest, SMALL), LARGE) / longest
    return max(1, round(height * factor)), max(1, round(width * factor))


def columns_of(count: int, height: int, width: int) -> int:
    """How many cells of h x w stand side by side, for a sheet a little wider than high."""
    most = math.ceil(math.sqrt(count * PAGE * height / width))
    return math.ceil(count / math.ceil(count / min(most, count)))


def drawable(text: str) -> str:
    """A text without accents, which the font that comes with Pillow does not have."""
    letters = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """A text on lines no wider than `width`; what `most` lines do not hold ends in an ellipsis."""
    lines: list[str] = []
    rest = " ".join(drawable(text).split())
    while rest:
        fits = max(1, _fitting(rest, font, width))
        if fits < len(rest):
            space = rest.rfind(" ", 0, fits + 1)
            fits = space if space > 0 else fits
        if len(lines) == most:
            lines[-1] = _shortened(lines[-1], font, width)
            break
        lines.append(rest[:fits])
        rest = rest[fits:].lstrip()
    return lines


def _shortened(line: str, font: Font, width: int) -> str:
    return line[:_fitting(line, font, width, "...")].rstrip() + "..."


def _fitting(text: str, font: Font, width: int, end: str = "") -> int:
    """How many characters of a text, with an end behind them, are no wider than `width`.

    Doubles a length until it is too wide and then halves the gap: neither the number of
    measurements nor what is measured grows with the text.
    """
    fits, over = 0, 1
    while over <= len(text) and font.getlength(text[:over] + end) <= width:
        fits, over = over, 2 * over
    over = min(over, len(text) + 1)
    while over - fits > 1:
        middle = (fits + over) // 2
        if font.getlength(text[:middle] + end) <= width:
            fits = middle
        else:
            over = middle
    return fits


def grid(title: str, heading: str, tiles: Sequence[Tile]) -> Tensor:
    """A sheet [H, W, 3] of tiles in reading order under one heading."""
    layout = _layout(tiles)
    columns = columns_of(len(tiles), layout.height + 3 * layout.line, layout.width)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return sheet(title, [(heading if i == 0 else "", row) for i, row in enumerate(rows)])


def sheet(title: str, rows: Sequence[tuple[str, Sequence[Tile]]]) -> Tensor:
    """A sheet [H, W, 3]: rows under headings; every picture has a name and a remark below it."""
    layout = _layout([tile for _, tiles in rows for tile in tiles])
    widest = max(len(tiles) for _, tiles in rows)
    width = layout.margin + widest * (layout.width + layout.margin)
    parts = [_heading(layout, title, width, 18, 18)]
    for heading, tiles in rows:
        parts += [_heading(layout, heading, width, 15, 7), _pictures(layout, tiles, width)]
    top = layout.margin - layout.scaled(4)
    image = Image.new("RGB", (width, top + sum(part.height for part in parts)), PAPER)
    for part in parts:
        image.paste(part, (0, top))
        top += part.height
    return picture_of(image)


def _layout(tiles: Sequence[Tile]) -> Layout:
    sizes = [shown_size(*content.shape[:2]) for _, _, content in tiles]
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    return Layout(max(width, NARROW), height)


def _heading(layout: Layout, text: str, width: int, size: int, gap: int) -> Image.Image:
    """A text across the sheet with a gap below; nothing where there is no text."""
    font = layout.font(size)
    lines = wrapped(text, font, width - 2 * layout.margin, HEADING_LINES)
    height = len(lines) * layout.scaled(size + 4) + layout.scaled(gap) * bool(lines)
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        pen.text((layout.margin, i * layout.scaled(size + 4)), line, INK, font)
    return image


def _pictures(layout: Layout, tiles: Sequence[Tile], width: int) -> Image.Image:
    """One row of pictures, each with its name and its remark below."""
    font = layout.font(13)
    labels = [_label(layout, font, name, remark) for name, remark, _ in tiles]
    below = layout.scaled(4) + max(map(len, labels)) * layout.line + layout.margin
    image = Image.new("RGB", (width, layout.height + below), PAPER)
    pen = ImageDraw.Draw(image)
    for i, (_, _, content) in enumerate(tiles):
        left = layout.margin + i * (layout.width + layout.margin)
        height, shown_width = shown_size(*content.shape[:2])
        shown = image_of(content).resize((shown_width, height), Image.Resampling.LANCZOS)
        image.paste(shown, (left, 0))
        for k, (line, colour) in enumerate(labels[i]):
            pen.text((left, height + layout.scaled(3) + k * layout.line), line, colour, font)
    return image


def _label(layout: Layout, font: Font, name: str, remark: str) -> list[Line]:
    named = wrapped(name, font, layout.width, NAME_LINES)
    return [*((line, INK) for line in named),
            *((line, PALE) for line in wrapped(remark, font, layout.width, REMARK_LINES))]


def image_of(picture: Tensor) -> Image.Image:
    """A picture as an image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().cpu().numpy())


def picture_of(image: Image.Image) -> Tensor:
    """An image as a picture."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255


def spread(heat: Tensor, height: int, width: int) -> Tensor:
    """Heat [n, h, w] at a picture's size [n, height, width], each divided by its own maximum.

    Heat that is zero or below everywhere stays zero.
    """
    smooth = F.interpolate(
        heat[None].float(), (height, width), mode="bicubic", align_corners=False)[0].clamp(min=0)
    largest = smooth.amax(dim=(-2, -1), keepdim=True)
    return torch.where(largest > 0, smooth / largest, torch.zeros_like(smooth))


def shares(heat: Tensor) -> list[float]:
    """How much of all heat [n, h, w] each of the n has; zeros where there is none."""
    sums = heat.clamp(min=0).double().sum((-2, -1))
    return (sums / sums.sum()).nan_to_num().tolist()


def coloured(heat: Tensor) -> Tensor:
    """Heat [...] in 0..1 as colours [..., 3]: dark violet through red to pale yellow."""
    anchors = torch.tensor(HEAT, dtype=torch.float32, device=heat.device) / 255
    place = heat.clamp(0, 1).float() * (len(HEAT) - 1)
    lower = place.floor().long().clamp(max=len(HEAT) - 2)
    return torch.lerp(anchors[lower], anchors[lower + 1], (place - lower).unsqueeze(-1))


def cover_of(heat: Tensor) -> Tensor:
    """How much heat [H, W] in 0..1 hides of the picture below it."""
    return 0.45 + 0.35 * heat


def veil(heat: Tensor) -> Image.Image:
    """Heat [H, W] in 0..1 to be laid over a picture: its colours, as opaque as in `overlaid`."""
    layer = torch.cat([coloured(heat), cover_of(heat).unsqueeze(-1)], dim=-1)
    return Image.fromarray((layer * 255).round().byte().cpu().numpy(), "RGBA")


def overlaid(picture: Tensor, heat: Tensor) -> Tensor:
    """Heat [H, W] over a picture, which pales to grey under it and shows through."""
    grey = (picture @ picture.new_tensor(GREY)).unsqueeze(-1)
    cover = cover_of(heat).unsqueeze(-1)
    return (1 - cover) * (0.25 * picture + 0.75 * grey) + cover * coloured(heat)
