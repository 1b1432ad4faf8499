"""Scenes as pictures: antialiased shapes, in the style of a painting or of a sketch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .scenes import PLACES, SIZE, Layout, Scene, Thing
from .shapes import COLOURS, FIXED_TONES, OBJECTS, Colour, Point

OVERSAMPLING = 3
OUTLINE_PIXELS = 2
PAPER: Colour = (250, 247, 240)
PENCIL: Colour = (66, 62, 70)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour a with a share of b."""
    return (
        round(a[0] + share * (b[0] - a[0])),
        round(a[1] + share * (b[1] - a[1])),
        round(a[2] + share * (b[2] - a[2])),
    )


class _Canvas:
    """Draws shapes in picture fractions, filled in one style and outlined in the other."""

    def __init__(self, style: str, size: int) -> None:
        self.sketch = style == "sketch"
        self.scale = size * OVERSAMPLING
        self.stroke = round(OUTLINE_PIXELS * self.scale / SIZE)
        self.image = Image.new("RGB", (self.scale, self.scale), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def fill(self, colour: Colour, wash: float) -> Colour:
        return mix(colour, PAPER, wash) if self.sketch else colour

    def shape(self, kind: str, points: Sequence[Point], colour: Colour, wash: float = 0.3,
              width: float = 0.045, outlined: bool = True) -> None:
        xy = [(x * self.scale, y * self.scale) for x, y in points]
        stroke = self.stroke
        fill = self.fill(colour, wash)
        if kind == "line":
            body = round(width * self.scale)
            if self.sketch and outlined:
                self.pen.line(xy, PENCIL, body + 2 * stroke, joint="curve")
            self.pen.line(xy, fill, body, joint="curve")
        elif kind == "ellipse":
            box = (min(x for x, _ in xy), min(y for _, y in xy),
                   max(x for x, _ in xy), max(y for _, y in xy))
            self.pen.ellipse(box, fill, PENCIL if self.sketch and outlined else None, stroke)
        else:
            self.pen.polygon(xy, fill)
            if self.sketch and outlined:
                self.pen.line([*xy, xy[0], xy[1]], PENCIL, stroke, joint="curve")

    def finish(self) -> Image.Image:
        return self.image.reduce(OVERSAMPLING)


def _draw_sky(canvas: _Canvas, sky: Colour) -> None:
    canvas.shape("polygon", ((0, 0), (1, 0), (1, 1), (0, 1)), sky, wash=0.6, outlined=False)


def _draw_ground(canvas: _Canvas, layout: Layout, ground: Colour) -> None:
    left, right = layout.horizon + layout.slope, layout.horizon - layout.slope
    land = ((-0.1, left), (1.1, right), (1.1, 1.1), (-0.1, 1.1))
    canvas.shape("polygon", land, ground, wash=0.45)


def _draw_light(canvas: _Canvas, layout: Layout, colour: Colour, radius: float) -> None:
    x, y = layout.light_x, layout.light_y
    corners = ((x - radius, y - radius), (x + radius, y + radius))
    canvas.shape("ellipse", corners, colour, wash=0.2)


def _draw_peaks(canvas: _Canvas, layout: Layout, colour: Colour, height: float) -> None:
    for i in range(2):
        centre = 0.2 + 0.6 * i + 0.2 * (layout.bumps[i] - 0.5)
        top = layout.horizon - height * (0.6 + 0.4 * layout.bumps[i + 2])
        foot = layout.horizon + 0.05
        canvas.shape("polygon", ((centre - 0.36, foot), (centre, top), (centre + 0.36, foot)),
                     colour, wash=0.45)


def _draw_skyline(canvas: _Canvas, layout: Layout, colour: Colour) -> None:
    for i, bump in enumerate(layout.bumps):
        left = i / 6 + 0.015
        top = layout.horizon - 0.12 - 0.22 * bump
        shade = mix(colour, (70, 76, 96), 0.35 * (i % 2))
        canvas.shape("polygon", ((left, layout.horizon + 0.06), (left, top), (left + 0.137, top),
                                 (left + 0.137, layout.horizon + 0.06)), shade, wash=0.45)


def _draw_place(canvas: _Canvas, place: str, layout: Layout) -> None:
    if place == "meadow":
        _draw_sky(canvas, (150, 208, 242))
        _draw_ground(canvas, layout, (118, 190, 92))
        _draw_light(canvas, layout, (252, 218, 92), 0.075)
    elif place == "snow":
        _draw_sky(canvas, (196, 210, 226))
        _draw_peaks(canvas, layout, (160, 178, 204), 0.34)
        _draw_ground(canvas, layout, (246, 249, 253))
    elif place == "desert":
        _draw_sky(canvas, (252, 226, 168))
        _draw_ground(canvas, layout, (226, 178, 106))
        _draw_light(canvas, layout, (240, 130, 66), 0.1)
    elif place == "city":
        _draw_sky(canvas, (206, 208, 214))
        _draw_skyline(canvas, layout, (148, 154, 172))
        _draw_ground(canvas, layout, (112, 114, 122))
    elif place == "night":
        _draw_sky(canvas, (26, 32, 78))
        _draw_ground(canvas, layout, (38, 62, 66))
        _draw_light(canvas, layout, (246, 242, 206), 0.07)
    else:
        raise ValueError(f"'{place}' is not a place; choose one of {', '.join(PLACES)}")


def _draw_thing(canvas: _Canvas, thing: Thing) -> None:
    colour = COLOURS[thing.colour]
    tones = {**FIXED_TONES, "main": colour, "dark": mix(colour, (0, 0, 0), 0.28),
             "light": mix(colour, (255, 255, 255), 0.55)}
    sign = -1 if thing.mirrored else 1
    for tone, kind, points in OBJECTS[thing.name]:
        placed = [((thing.x + sign * x * thing.size) / SIZE, (thing.y - y * thing.size) / SIZE)
                  for x, y in points]
        canvas.shape(kind, placed, tones[tone], width=0.09 * thing.size / SIZE)


def draw(scene: Scene, size: int = SIZE) -> Image.Image:
    """The picture of a scene, RGB, antialiased, 128x128 unless asked otherwise."""
    canvas = _Canvas(scene.style, size)
    _draw_place(canvas, scene.place, scene.layout)
    for thing in scene.things:
        _draw_thing(canvas, thing)
    return canvas.finish()


def changed_mask(before: Image.Image, after: Image.Image, threshold: int = 12) -> np.ndarray:
    """Where a true edit differs from its source: bool [H, W], by the largest channel."""
    a, b = (np.asarray(i.convert("RGB"), dtype=np.int16) for i in (before, after))
    return np.abs(a - b).max(axis=-1) > threshold
