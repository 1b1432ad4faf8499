"""What a person writes, and what is wrong with it in their own words."""

import pytest
from stylediffusion_pack.stylediffusion.method.prompt_to_prompt import Window
from stylediffusion_pack.stylediffusion.prompts import notation


def test_pairs_are_told_apart_by_commas_and_lines() -> None:
    assert notation.pairs("tiger: 1.5, snow :0.5\n\ncat:2,", "emphasis") == [
        ("tiger", "1.5"), ("snow", "0.5"), ("cat", "2")]


@pytest.mark.parametrize(("text", "pair"), [
    ("blue：1.5", ("blue", "1.5")), ("blue=1.5", ("blue", "1.5")), ("(blue:1.5)", ("blue", "1.5")),
    ("blue: 1,5", ("blue", "1.5")), ("tau_c: 0,1-0,6", ("tau_c", "0.1-0.6")),
    ("red car : 2", ("red car", "2")), ("(tiger): 2", ("(tiger)", "2")),
    ("a:b: 2", ("a:b", "2")),
])
def test_a_pair_is_understood_as_people_write_it(text: str, pair: tuple[str, str]) -> None:
    assert notation.pairs(text, "emphasis") == [pair]
    assert notation.pairs(f"{text}, cat: 3，dog：4、 2girls: 1", "emphasis") == [
        pair, ("cat", "3"), ("dog", "4"), ("2girls", "1")]


def test_a_name_with_two_numbers_is_named_with_both() -> None:
    with pytest.raises(ValueError, match="'Tiger' has two numbers in emphasis, '1' and '2'"):
        notation.pairs("tiger: 1, cat: 1, Tiger: 2", "emphasis")


@pytest.mark.parametrize("text", ["tiger", "tiger:", ": 2", "tiger 2"])
def test_what_is_no_pair_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' in emphasis is not of the form"):
        notation.pairs(text, "emphasis")


@pytest.mark.parametrize(("text", "window"), [
    ("0.1-0.6", Window(0.1, 0.6)), ("0.6", Window(0.0, 0.6)), ("0 - 1", Window(0.0, 1.0)),
    (".25-.5", Window(0.25, 0.5)), ("０.1–０.6", Window(0.1, 0.6)),
])
def test_a_window_is_a_range_or_its_end(text: str, window: Window) -> None:
    assert notation.window(text, "tau_c") == window


@pytest.mark.parametrize("text", ["0.6-0.1", "0-1.5"])
def test_a_window_that_runs_backwards_or_too_far_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"the window '{text}' of 'tiger' must run from"):
        notation.window(text, "tiger")


@pytest.mark.parametrize("text", ["-0.5", "a-b", "1 2", ""])
def test_what_is_no_window_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' of 'tau_c' is not of the form 0.1-0.6"):
        notation.window(text, "tau_c")


@pytest.mark.parametrize(("text", "number"), [("-1.5", -1.5), ("-10", -10), ("10", 10), ("0", 0)])
def test_an_emphasis_reaches_from_minus_ten_to_ten(text: str, number: float) -> None:
    assert notation.factor(text, "tiger") == number


@pytest.mark.parametrize("text", ["loud", "11", "nan", "10.01", "-10.01", "inf"])
def test_an_emphasis_is_a_number_within_reason(text: str) -> None:
    with pytest.raises(ValueError, match=f"the emphasis '{text}' of 'tiger' is not a number"):
        notation.factor(text, "tiger")


@pytest.mark.parametrize(("text", "parts"), [
    ("cat", [("cat", [0, 1])]), ("", [("", [0, 1])]), ("cat\n", [("cat", [0]), ("", [1])]),
    ("cat; boat", [("cat", [0]), ("boat", [1])]), ("cat\n boat ", [("cat", [0]), ("boat", [1])]),
    ("; boat", [("", [0]), ("boat", [1])]), ("cat；boat", [("cat", [0]), ("boat", [1])]),
])
def test_a_part_serves_all_targets_or_each_has_its_own(
    text: str, parts: list[tuple[str, list[int]]]
) -> None:
    assert notation.parts_of(text, 2, "blend_words") == parts


def test_parts_that_fit_no_number_of_targets_are_counted() -> None:
    with pytest.raises(ValueError, match="has 2 parts .* number of targets is 3"):
        notation.parts_of("cat; boat", 3, "blend_words")


def test_phrases_are_told_apart_by_commas_of_any_script() -> None:
    assert notation.phrases(" red  car, boat，cup、\n猫 ,") == ["red car", "boat", "cup", "猫"]


RIGHT = {"targets": "a\nb", "emphasis": "a: 1; b: 2", "windows": "tau_c: 0.1\ntau_s: 1",
         "blend_words": "a; b", "subtract_words": ""}


@pytest.mark.parametrize(("typed", "message"), [
    ({"targets": " \n "}, "targets is empty"),
    ({"targets": "a\n\nb"}, "line 2 of targets is empty"),
    ({"emphasis": "a: loud"}, "the emphasis 'loud' of 'a' is not a number"),
    ({"emphasis": "a: 1; b: nan"}, "the emphasis 'nan' of 'b' is not a number"),
    ({"emphasis": "a: 11"}, "the emphasis '11' of 'a' is not a number between -10 and 10"),
    ({"emphasis": "a; b: 1"}, "'a' in emphasis is not of the form"),
    ({"emphasis": "a: 1, a: 2; "}, "'a' has two numbers in emphasis"),
    ({"windows": "tau_c: 0.6-0.1"}, "the window '0.6-0.1' of 'tau_c' must run"),
    ({"windows": "a: nan"}, "the window 'nan' of 'a' is not of the form"),
    ({"blend_words": "a; b; c"}, "blend_words has 3 parts between semicolons, .* targets is 2"),
    ({"subtract_words": "a; b; c"}, "subtract_words has 3 parts"),
    ({"targets": "a", "blend_words": "", "emphasis": ""}, None),
    ({"targets": None, "blend_words": "a; b; c"}, None),
    ({"targets": None, "emphasis": "a: 1; b: 2; c: loud"}, "the emphasis 'loud' of 'c'"),
])
def test_what_is_wrong_for_any_prompt_needs_no_prompt(
    typed: dict[str, str | None], message: str | None
) -> None:
    notation.require_readable(**RIGHT)
    if message is None:
        notation.require_readable(**{**RIGHT, **typed})
        return
    with pytest.raises(ValueError, match=message):
        notation.require_readable(**{**RIGHT, **typed})


def test_values_are_told_apart_by_commas_and_spaces_and_kept_once() -> None:
    assert notation.windows("0, 0.50 .5\n0.1 - 0.6", "tau_s") == [
        ("0", Window(0.0, 0.0)), ("0.50", Window(0.0, 0.5)), ("0.1-0.6", Window(0.1, 0.6))]


@pytest.mark.parametrize(("targets", "source", "lines"), [
    ("1. a car - blue\n2. a car - 3. red", "a car", ["a car - blue", "a car - 3. red"]),
    ("1\u3001\n2\u3001", "a car", ["1\u3001", "2\u3001"]),
])
def test_a_list_marker_is_what_begins_a_line_and_is_not_all_of_it(
    targets: str, source: str, lines: list[str]
) -> None:
    assert notation.target_lines(targets, source)[0] == lines


@pytest.mark.parametrize("source", ["a red car", "a house", "the\nsea"])
def test_lines_are_one_prompt_only_where_all_are_more_like_the_source_than_the_best_one(
    source: str
) -> None:
    """Shared words: of "a red car" the first line has all, all lines together 3 of 5 + 3."""
    assert notation.target_lines("a red car\nsome snow", source) == (
        ["a red car", "some snow"], [])


def test_brackets_go_only_in_pairs_and_spaces_everywhere() -> None:
    assert notation.pairs("(big cat : 2), \n ( dog:3 ) ,big (tree: 1)", "emphasis") == [
        ("big cat", "2"), ("dog", "3"), ("big (tree", "1)")]


def test_without_a_value_there_is_an_error_with_an_example() -> None:
    with pytest.raises(ValueError, match="there is no value of 'tau_s'; write some, for example"):
        notation.windows(" , ; ", "tau_s")
