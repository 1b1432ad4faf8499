"""Draws the pack's icon and banner from its own scenes: python -m development.artwork"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFont

from demo import scenes

from .places import ROOT

WEB = ROOT / "web"
ICON, BANNER = 400, (1260, 540)
TILE, MARGIN = 372, 30
INK, PAPER, PALE = (28, 30, 36), (250, 248, 243), (96, 98, 108)


def cat(colour: str = "brown", place: str = "city") -> scenes.Scene:
    """One layout with other words."""
    return scenes.scene_of(("cat", colour, place), "painting", random.Random(4937))


def icon() -> Image.Image:
    """The cat, half as it was and half as it was asked to be."""
    box = (204, 90, 204 + ICON, 90 + ICON)
    before, after = (scenes.draw(cat(colour), 640).crop(box) for colour in ("brown", "orange"))
    half = Image.new("L", (ICON, ICON))
    ImageDraw.Draw(half).polygon(((ICON * 0.7, 0), (ICON, 0), (ICON, ICON), (ICON * 0.3, ICON)),
                                 255)
    return Image.composite(after, before, half)


def banner() -> Image.Image:
    """A drawn scene and two of its true edits: what the pack is for, not what a model painted."""
    image = Image.new("RGB", BANNER, PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, 22), "StyleDiffusion", INK, ImageFont.load_default(52))
    pen.text((MARGIN + 392, 44), "change a word, keep the picture", PALE,
             ImageFont.load_default(28))
    tiles = (("a brown cat in the city", cat()), ("an orange cat in the city", cat("orange")),
             ("a brown cat in the snow", cat(place="snow")))
    for i, (label, scene) in enumerate(tiles):
        left = MARGIN + i * (TILE + (BANNER[0] - 2 * MARGIN - 3 * TILE) // 2)
        image.paste(scenes.draw(scene, TILE), (left, 100))
        pen.text((left, 100 + TILE + 12), label, INK, ImageFont.load_default(24))
    return image


def main() -> None:
    """Write both files."""
    WEB.mkdir(exist_ok=True)
    icon().save(WEB / "icon.png", optimize=True)
    banner().save(WEB / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
