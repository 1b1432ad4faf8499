"""Sixty edits of unseen subjects, fifteen of each kind, whose truth is known: chosen by a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo import scenes

SEED, SCENES = "StyleDiffusion taus", 15
KINDS = ("colour", "object", "place", "style")


@dataclass(frozen=True)
class SceneEdit:
    """A scene of an unseen triple and what it should become."""

    kind: str
    scene: scenes.Scene
    wanted: scenes.Scene

    @property
    def blend_words(self) -> str:
        """What changes and the thing; edits of the whole picture are not kept to a place."""
        was, wanted = self.scene.things[0], self.wanted.things[0]
        words = {"colour": (wanted.colour, was.name), "object": (was.name, wanted.name)}
        return ", ".join(words.get(self.kind, ()))


def chosen_edits() -> list[list[SceneEdit]]:
    """For each scene its four edits, by a seed."""
    rng, found = random.Random(SEED), []
    for triple in rng.sample(sorted(scenes.UNSEEN), SCENES):
        scene = scenes.scene_of(triple, rng.choice(scenes.STYLES), random.Random(rng.random()))
        other = {
            "colour": rng.choice([c for c in scenes.COLOURS if c != triple[1]]),
            "name": rng.choice([o for o in scenes.OBJECTS if o != triple[0]]),
            "place": rng.choice([p for p in scenes.PLACES if p != triple[2]]),
            "style": next(s for s in scenes.STYLES if s != scene.style),
        }
        found.append([SceneEdit(kind, scene, scenes.edited(scene, **{name: value}))
                      for kind, (name, value) in zip(KINDS, other.items(), strict=True)])
    return found
