"""The rule for words, by the table that the page's script is held to as well."""

import pytest
from stylediffusion_pack.stylediffusion.method import alignment
from stylediffusion_pack.stylediffusion.prompts import notation, words
from stylediffusion_pack.stylediffusion.prompts.positions import positions_of

from tests import golden

TABLE = golden.facts("words")


@pytest.mark.parametrize(("word", "expected"), TABLE["bare"])
def test_a_word_is_compared_without_what_people_do_not_mean_by_it(
    word: str, expected: str
) -> None:
    assert words.bare(word) == expected


@pytest.mark.parametrize(("targets", "source", "expected"), TABLE["targets"])
def test_targets_are_the_prompts_a_person_means(
    targets: str, source: str, expected: list[str]
) -> None:
    found, said = notation.target_lines(targets, source)
    assert found == expected
    if found != [line.strip() for line in targets.splitlines()]:
        assert said and found[0] in said[0], "what is read otherwise than written is said"


def test_lines_that_may_be_one_prompt_are_said_to_be_several() -> None:
    _, said = notation.target_lines("a blue car,\nin a meadow", "a red car, in a meadow")
    assert said == ["the 2 lines of targets are read as so many edits; if they are one prompt, "
                    "write it on one line"]
    assert notation.target_lines("a blue car\na green car", "a red car")[1] == []


def test_a_match_inside_a_word_does_not_hide_a_whole_word_behind_it() -> None:
    assert list(words.find("cats cat category cat", "cat")) == [(5, 8), (18, 21)]


def test_words_in_a_message_stand_once_and_as_typed() -> None:
    assert words.listed(["A cat, a Dog's <bowl>", "cat 猫，椅子 &"]) == [
        "A", "cat", "Dog's", "bowl", "猫", "椅子"]


@pytest.mark.parametrize(("asked", "expected"), [
    ("tigre", "tiger"), ("Tigers", "tiger"), ("red cra", "red car"), ("foreset", "forest"),
    ("elephant", None),
])
def test_the_nearest_word_or_phrase_is_named_as_typed(asked: str, expected: str | None) -> None:
    assert words.nearest(asked, ["a tiger,in the forest", "a red car."]) == expected


def test_a_word_whose_tokens_do_not_spell_it_has_all_of_them_for_any_part() -> None:
    word = alignment.Word("cat,dog", (1, 2, 3))
    prompt = alignment.TokenizedPrompt("cat,dog", tuple(range(77)), (word,))
    assert positions_of("dog", prompt) == (1, 2, 3)
    assert positions_of("do", prompt) == ()
