"""Captioned 128x128 scenes with known true edits: the world the demo model lives in.

A scene is what is shown (object, colour, place, style) plus a layout (where everything stands).
Two scenes that share a layout differ in exactly what their captions differ in, so
`draw(replace(scene, colour="blue"))` is the true answer to the edit "red" -> "blue".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

VERSION = 1
SIZE = 128
OVERSAMPLING = 3
OUTLINE_PIXELS = 2

Colour = tuple[int, int, int]
Point = tuple[float, float]
Part = tuple[str, str, Sequence[Point]]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (244, 140, 30),
    "yellow": (246, 216, 50),
    "green": (40, 160, 70),
    "blue": (40, 90, 210),
    "purple": (125, 55, 175),
    "pink": (245, 130, 180),
    "brown": (115, 70, 40),
}
PLACES = ("meadow", "snow", "desert", "city", "night")
STYLES = ("painting", "sketch")
FIXED_TONES: dict[str, Colour] = {
    "metal": (62, 64, 72),
    "glass": (196, 228, 242),
    "wood": (98, 68, 48),
    "cream": (246, 238, 218),
}
PAPER: Colour = (250, 247, 240)
PENCIL: Colour = (66, 62, 70)

# Parts in a unit box: x from -0.5 to 0.5, y from 0 (the foot) to 1 (the top). An ellipse is given
# by two corners, a line by its points.
OBJECTS: dict[str, tuple[Part, ...]] = {
    "car": (
        ("main", "polygon", ((-0.28, 0.38), (-0.16, 0.64), (0.18, 0.64), (0.32, 0.38))),
        ("glass", "polygon", ((-0.2, 0.39), (-0.12, 0.57), (0.14, 0.57), (0.23, 0.39))),
        ("main", "polygon", ((-0.5, 0.12), (-0.5, 0.36), (-0.42, 0.4), (0.44, 0.4), (0.5, 0.32),
                             (0.5, 0.12))),
        ("metal", "ellipse", ((-0.4, 0.0), (-0.16, 0.24))),
        ("metal", "ellipse", ((0.16, 0.0), (0.4, 0.24))),
    ),
    "boat": (
        ("wood", "polygon", ((-0.05, 0.26), (-0.05, 1.0), (0.01, 1.0), (0.01, 0.26))),
        ("cream", "polygon", ((0.04, 0.34), (0.04, 0.96), (0.42, 0.34))),
        ("cream", "polygon", ((-0.08, 0.34), (-0.08, 0.84), (-0.36, 0.34))),
        ("main", "polygon", ((-0.5, 0.28), (0.5, 0.28), (0.34, 0.0), (-0.34, 0.0))),
    ),
    "house": (
        ("cream", "polygon", ((-0.06, 0.0), (-0.36, 0.0), (-0.36, 0.5), (0.36, 0.5), (0.36, 0.0))),
        ("main", "polygon", ((-0.48, 0.48), (0.0, 0.96), (0.48, 0.48))),
        ("main", "polygon", ((-0.26, 0.0), (-0.26, 0.32), (-0.06, 0.32), (-0.06, 0.0))),
        ("glass", "polygon", ((0.06, 0.16), (0.06, 0.36), (0.26, 0.36), (0.26, 0.16))),
    ),
    "tree": (
        ("wood", "polygon", ((-0.07, 0.0), (-0.05, 0.42), (0.05, 0.42), (0.07, 0.0))),
        ("dark", "ellipse", ((-0.42, 0.3), (0.1, 0.76))),
        ("main", "ellipse", ((-0.1, 0.3), (0.42, 0.76))),
        ("main", "ellipse", ((-0.3, 0.48), (0.26, 1.0))),
    ),
    "cat": (
        ("main", "line", ((0.2, 0.06), (0.4, 0.12), (0.42, 0.34), (0.34, 0.46))),
        ("main", "ellipse", ((-0.26, 0.0), (0.26, 0.6))),
        ("main", "polygon", ((-0.3, 0.7), (-0.27, 1.0), (-0.06, 0.86))),
        ("main", "polygon", ((0.3, 0.7), (0.27, 1.0), (0.06, 0.86))),
        ("main", "ellipse", ((-0.3, 0.46), (0.3, 0.92))),
        ("light", "ellipse", ((-0.13, 0.06), (0.13, 0.4))),
        ("metal", "ellipse", ((-0.18, 0.66), (-0.06, 0.78))),
        ("metal", "ellipse", ((0.06, 0.66), (0.18, 0.78))),
    ),
    "ball": (
        ("main", "ellipse", ((-0.38, 0.0), (0.38, 0.76))),
        ("light", "polygon", ((-0.36, 0.27), (-0.38, 0.38), (-0.36, 0.49), (0.36, 0.49),
                              (0.38, 0.38), (0.36, 0.27))),
    ),
    "cup": (
        ("main", "line", ((0.24, 0.62), (0.44, 0.58), (0.44, 0.26), (0.2, 0.2))),
        ("main", "polygon", ((-0.36, 0.72), (0.3, 0.72), (0.2, 0.0), (-0.26, 0.0))),
        ("dark", "ellipse", ((-0.36, 0.62), (0.3, 0.82))),
    ),
    "rocket": (
        ("dark", "polygon", ((-0.16, 0.12), (-0.38, 0.0), (-0.34, 0.24), (-0.16, 0.44))),
        ("dark", "polygon", ((0.16, 0.12), (0.38, 0.0), (0.34, 0.24), (0.16, 0.44))),
        ("main", "polygon", ((-0.18, 0.1), (-0.2, 0.5), (-0.14, 0.76), (0.0, 1.0), (0.14, 0.76),
                             (0.2, 0.5), (0.18, 0.1))),
        ("glass", "ellipse", ((-0.11, 0.5), (0.11, 0.72))),
    ),
}


@dataclass(frozen=True)
class Thing:
    """An object with its colour, standing at (x, y) in pixels with a given size in pixels."""

    name: str
    colour: str
    x: float
    y: float
    size: float
    mirrored: bool


@dataclass(frozen=True)
class Layout:
    """Where a place's own features stand; all numbers are fractions of the picture."""

    horizon: float
    light_x: float
    light_y: float
    slope: float
    bumps: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `things[0]` is the one that edits are about."""

    things: tuple[Thing, ...]
    place: str
    style: str
    layout: Layout

    @property
    def triple(self) -> tuple[str, str, str]:
        """The (object, colour, place) of the first thing."""
        return self.things[0].name, self.things[0].colour, self.place


def triples() -> list[tuple[str, str, str]]:
    """Every (object, colour, place) there is."""
    return [(o, c, p) for o in OBJECTS for c in COLOURS for p in PLACES]


def _choose_unseen() -> frozenset[tuple[str, str, str]]:
    """One triple in ten, four of every object, chosen once by a fixed seed."""
    rng = random.Random("unseen triples")
    chosen = set()
    for name in OBJECTS:
        own = [t for t in triples() if t[0] == name]
        chosen.update(rng.sample(own, 4))
    return frozenset(chosen)


UNSEEN = _choose_unseen()


def random_layout(rng: random.Random) -> Layout:
    """A horizon, a light, a slope and the heights of hills or houses."""
    return Layout(
        horizon=rng.uniform(0.5, 0.68),
        light_x=rng.choice((rng.uniform(0.1, 0.25), rng.uniform(0.75, 0.9))),
        light_y=rng.uniform(0.12, 0.24),
        slope=rng.uniform(-0.04, 0.04),
        bumps=tuple(rng.random() for _ in range(6)),
    )


def scene_of(
    triple: tuple[str, str, str],
    style: str,
    rng: random.Random,
    second: tuple[str, str] | None = None,
) -> Scene:
    """A scene of a triple in a style with a random layout; `second` is (object, colour)."""
    layout = random_layout(rng)
    name, colour, place = triple
    if second is None:
        x, size = rng.uniform(0.34, 0.66), rng.uniform(52, 74)
        things: tuple[Thing, ...] = (_standing(name, colour, x, size, layout, rng),)
    else:
        left, right = rng.uniform(0.25, 0.29), rng.uniform(0.71, 0.75)
        if rng.random() < 0.5:
            left, right = right, left
        things = (
            _standing(name, colour, left, rng.uniform(46, 54), layout, rng),
            _standing(second[0], second[1], right, rng.uniform(46, 54), layout, rng),
        )
    return Scene(things, place, style, layout)


def _standing(
    name: str, colour: str, x: float, size: float, layout: Layout, rng: random.Random
) -> Thing:
    foot = layout.horizon * SIZE + rng.uniform(0.12, 0.24) * SIZE
    return Thing(name, colour, x * SIZE, foot, size, rng.random() < 0.5)


def random_scenes(seed: int, unseen: bool = False) -> Iterator[Scene]:
    """Endless scenes; never an unseen triple, or (unseen=True) only those, one object each."""
    rng = random.Random(f"scenes {seed}")
    pool = [t for t in triples() if (t in UNSEEN) == unseen]
    while True:
        triple, style = rng.choice(pool), rng.choice(STYLES)
        second = None
        if not unseen and rng.random() < 0.15:
            others = [t for t in pool if t[2] == triple[2] and t[0] != triple[0]]
            second = rng.choice(others)[:2]
        yield scene_of(triple, style, rng, second)


def single_scenes(seed: int) -> Iterator[Scene]:
    """Endless scenes of one object, every triple alike."""
    rng, pool = random.Random(f"single {seed}"), triples()
    while True:
        yield scene_of(rng.choice(pool), rng.choice(STYLES), rng)


def edited(
    scene: Scene,
    *,
    name: str | None = None,
    colour: str | None = None,
    place: str | None = None,
    style: str | None = None,
) -> Scene:
    """The true edit: the same layout with another object, colour, place or style."""
    first = scene.things[0]
    first = replace(first, name=name or first.name, colour=colour or first.colour)
    return replace(
        scene,
        things=(first, *scene.things[1:]),
        place=place or scene.place,
        style=style or scene.style,
    )


TEMPLATES = (
    "a {style} of a {colour} {object} in the {place}",
    "a {colour} {object} in the {place}, {style}",
    "{style} of one {colour} {object}, {place}",
)
PAIR_TEMPLATES = (
    "a {style} of a {colour} {object} and a {colour2} {object2} in the {place}",
    "a {colour} {object} next to a {colour2} {object2} in the {place}, {style}",
)


def caption(scene: Scene, template: int = 0) -> str:
    """The caption of a scene by one of its templates."""
    return _with_articles(_filled(scene, template))


def _with_articles(text: str) -> str:
    return re.sub(r"\ba(?= [aeiou])", "an", text)


def _filled(scene: Scene, template: int) -> str:
    first = scene.things[0]
    words = {"style": scene.style, "place": scene.place, "colour": first.colour,
             "object": first.name}
    if len(scene.things) == 1:
        return TEMPLATES[template % len(TEMPLATES)].format(**words)
    second = scene.things[1]
    return PAIR_TEMPLATES[template % len(PAIR_TEMPLATES)].format(
        **words, colour2=second.colour, object2=second.name
    )


def random_caption(scene: Scene, rng: random.Random) -> str:
    """A caption by a random template; one in eight leaves the colour unsaid, as people do."""
    text = _filled(scene, rng.randrange(6))
    if rng.random() < 0.125:
        text = text.replace(f"{scene.things[0].colour} ", "", 1)
    return _with_articles(text)


def vocabulary() -> list[str]:
    """Every word a caption can hold."""
    texts = [t.format(style="", colour="", object="", place="", colour2="", object2="")
             for t in TEMPLATES + PAIR_TEMPLATES]
    words = {w.strip(",") for text in texts for w in text.split()} - {""}
    return sorted(words | {",", "an"} | set(OBJECTS) | set(COLOURS) | set(PLACES) | set(STYLES))


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
