"""The pictures everything is judged on: chosen by a seed, before the model was trained."""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo import scenes

SEED = "StyleDiffusion trials"
COUNT = 13


@dataclass(frozen=True)
class Trial:
    """A scene of an unseen triple, as the Demo Scene node draws it, and two edits of it."""

    object: str
    colour: str
    place: str
    style: str
    seed: int
    new_colour: str
    new_object: str

    @property
    def scene(self) -> scenes.Scene:
        """The source."""
        triple = (self.object, self.colour, self.place)
        return scenes.scene_of(triple, self.style, random.Random(self.seed))

    @property
    def edits(self) -> tuple[scenes.Scene, scenes.Scene]:
        """The true colour edit and the true object edit."""
        return (scenes.edited(self.scene, colour=self.new_colour),
                scenes.edited(self.scene, name=self.new_object))

    @property
    def blend_lists(self) -> tuple[str, str]:
        """What keeps each edit to its place: what changes, and the thing."""
        return f"{self.new_colour}, {self.object}", f"{self.object}, {self.new_object}"

    @property
    def blend_words(self) -> str:
        """Both lists as one, which serves either edit: a word that it does not have is no error."""
        return f"{self.new_colour}, {self.object}, {self.new_object}"


def choose() -> tuple[Trial, ...]:
    """The demo's trial first, then the twelve test scenes."""
    rng = random.Random(SEED)
    return tuple(
        Trial(*triple, rng.choice(scenes.STYLES), rng.randrange(10_000),
              rng.choice([c for c in scenes.COLOURS if c != triple[1]]),
              rng.choice([o for o in scenes.OBJECTS if o != triple[0]]))
        for triple in rng.sample(sorted(scenes.UNSEEN), COUNT)
    )


DEMO, *TESTS = choose()
