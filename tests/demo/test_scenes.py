"""Scenes, their captions and their true edits."""

import random

import numpy as np
import pytest
from stylediffusion_pack.demo import drawing, scenes

from training import trials


def test_a_layout_is_drawn_alike_every_time() -> None:
    first, again = (next(scenes.random_scenes(7)) for _ in range(2))
    assert drawing.draw(first).tobytes() == drawing.draw(again).tobytes()
    assert drawing.draw(first).size == (128, 128)


def test_training_scenes_never_hold_an_unseen_triple() -> None:
    source = scenes.random_scenes(11)
    for _ in range(500):
        scene = next(source)
        for thing in scene.things:
            assert (thing.name, thing.colour, scene.place) not in scenes.UNSEEN


def test_unseen_triples_cover_every_object() -> None:
    assert len(scenes.triples()) == 8 * 8 * 5
    assert {name for name, _, _ in scenes.UNSEEN} == set(scenes.OBJECTS)


@pytest.mark.parametrize("change", [{"colour": "blue"}, {"name": "cup"}])
def test_a_true_edit_changes_the_object_and_nothing_else(change: dict[str, str]) -> None:
    scene = scenes.scene_of(("car", "red", "meadow"), "painting", random.Random(5))
    before, after = drawing.draw(scene), drawing.draw(scenes.edited(scene, **change))
    mask = drawing.changed_mask(before, after)
    rows, columns = np.nonzero(mask)
    thing = scene.things[0]
    assert 0.01 < mask.mean() < 0.4
    assert rows.max() <= thing.y + 3 and rows.min() >= thing.y - thing.size - 3
    assert abs(columns - thing.x).max() <= thing.size / 2 + 3


def test_a_true_edit_of_the_place_leaves_the_object() -> None:
    scene = scenes.scene_of(("ball", "red", "meadow"), "painting", random.Random(5))
    before, after = drawing.draw(scene), drawing.draw(scenes.edited(scene, place="snow"))
    thing = scene.things[0]
    centre = (round(thing.x), round(thing.y - 0.2 * thing.size))
    assert before.getpixel(centre) == after.getpixel(centre)
    assert drawing.changed_mask(before, after).mean() > 0.3


def test_captions_are_english_and_made_of_the_vocabulary() -> None:
    rng, source, known = random.Random(1), scenes.random_scenes(3), set(scenes.vocabulary())
    for _ in range(300):
        text = scenes.random_caption(next(source), rng)
        assert " a orange" not in f" {text}"
        assert {w.strip(",") for w in text.split()} <= known, text


def test_the_trials_are_unseen_scenes_chosen_before_training() -> None:
    assert len(trials.TESTS) == 12
    for trial in (trials.DEMO, *trials.TESTS):
        assert trial.scene.triple in scenes.UNSEEN
        colour, other = trial.edits
        assert colour.triple == (trial.object, trial.new_colour, trial.place)
        assert other.triple == (trial.new_object, trial.colour, trial.place)
