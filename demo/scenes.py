"""Captioned 128x128 scenes with known true edits: the world the demo model lives in.

A scene is what is shown (object, colour, place, style) plus a layout (where everything stands).
Two scenes that share a layout differ in exactly what their captions differ in, so
`draw(replace(scene, colour="blue"))` is the true answer to the edit "red" -> "blue".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .shapes import COLOURS, OBJECTS

VERSION = 1
SIZE = 128
PLACES = ("meadow", "snow", "desert", "city", "night")
STYLES = ("painting", "sketch")


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
