"""The edits that methods and taus are compared on."""

from demo import scenes
from training import trials
from training.unseen_edits import KINDS, SCENES, chosen_edits

EDITS = [edit for edits in chosen_edits() for edit in edits]


def test_there_are_as_many_of_every_kind_and_no_source_was_trained_on() -> None:
    assert [edit.kind for edit in EDITS] == list(KINDS) * SCENES
    assert {edit.scene.triple for edit in EDITS} <= scenes.UNSEEN


def test_a_new_colour_or_object_is_kept_to_the_words_that_change_and_the_thing() -> None:
    for edit in EDITS:
        thing, wanted = edit.scene.things[0], edit.wanted.things[0]
        words = edit.blend_words.split(", ")
        expected = {"colour": [wanted.colour, thing.name], "object": [thing.name, wanted.name]}
        assert words == expected.get(edit.kind, [""])
        said = f"{scenes.caption(edit.scene)} {scenes.caption(edit.wanted)}".split()
        assert set(words) <= {*said, ""}


def test_the_words_of_a_trial_stand_in_one_of_its_captions() -> None:
    for trial in (trials.DEMO, *trials.TESTS):
        said = " ".join(map(scenes.caption, (trial.scene, *trial.edits))).split()
        assert set(trial.blend_words.split(", ")) <= set(said)
