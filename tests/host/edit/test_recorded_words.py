"""Spans of words, their windows and emphasis vectors, against those of the released code."""

import re
from typing import Any

import pytest
import torch
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host import text_encoder
from stylediffusion_pack.stylediffusion.host.edit import controller
from stylediffusion_pack.stylediffusion.method import data, prompt_to_prompt, schedule
from stylediffusion_pack.stylediffusion.prompts.positions import positions_of

from tests import golden

FACTS, RECORDED = golden.facts("alignment"), golden.tensors("alignment")
PAIRS = {pair["pair"]: pair for pair in FACTS["pairs"]}


def is_clean(prompt: str, pair: dict[str, Any], side: str) -> bool:
    """One chunk, no stray spaces, no sign that the released code splits another way."""
    ids = pair[f"ids_{side}"]
    spans = [p for t, i, p, _ in pair["word_inds"] if t == prompt and isinstance(i, int)]
    return bool(prompt) and len(ids) <= 77 and prompt.split() == prompt.split(" ") and (
        sum(map(len, spans)) == len(ids) - 2)


PROMPTS = {pair[side]: (pair, side) for pair in PAIRS.values() for side in "ab"
           if is_clean(pair[side], pair, side)}
CLEAN = [n for n, pair in PAIRS.items() if all(is_clean(pair[s], pair, s) for s in "ab")]


@pytest.fixture(scope="module")
def clip() -> Any:
    return loading.load_clip()


def test_most_recorded_prompts_are_used() -> None:
    assert len(PROMPTS) >= 30 and len(CLEAN) >= 15


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: p[:40])
def test_words_have_the_recorded_tokens_by_place_and_by_name(clip: Any, prompt: str) -> None:
    pair, side = PROMPTS[prompt]
    found = text_encoder.tokenize(clip, prompt)
    ids = pair[f"ids_{side}"]
    assert list(found.token_ids) == ids + [49407] * (77 - len(ids))
    for said, word, positions, _ in pair["word_inds"]:
        if said != prompt:
            continue
        if isinstance(word, int):
            assert list(found.words[word].positions) == positions
        elif word in prompt.split():
            same = [w for w in prompt.split() if w != word and w.lower().strip(",.") == word]
            assert same or list(positions_of(word, found)) == positions, word


def trajectory(prompt: str) -> data.Trajectory:
    levels = schedule.make_levels(4, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    return data.Trajectory(
        torch.zeros(5, 4, 16, 16), levels, prompt, "", [], [], (), "0" * 16)


def edit(
    clip: Any, pair: dict[str, Any], tau_c: prompt_to_prompt.Window, **wishes: str
) -> prompt_to_prompt.Control:
    shut = prompt_to_prompt.Window(0.0, 0.0)
    windows = {"tau_v": shut, "tau_c": tau_c, "tau_s": shut, "tau_u": shut}
    return controller.make_control(
        clip, trajectory(pair["a"]), pair["b"], "auto", windows, controller.WordOptions(**wishes))


def written(bounds: Any) -> str:
    return f"{bounds[0]}-{bounds[1]}" if isinstance(bounds, list) else str(bounds)


def cases() -> list[tuple[int, int, int]]:
    """(pair, which of the recorded windows, steps) of clean pairs, words that occur only."""
    found = []
    for number in CLEAN:
        for place, steps in ((p, s) for p in range(len(FACTS["cross_steps"])) for s in (10, 30)):
            said = FACTS["cross_steps"][place]
            words = [w for w in (said if isinstance(said, dict) else {}) if w != "default_"]
            occur = all(w in PAIRS[number]["b"].split(" ") for w in words)
            if f"{number}.alpha.{place}.{steps}" in RECORDED and occur:
                found.append((number, place, steps))
    return found


def test_windows_of_words_and_later_starts_are_among_those_compared() -> None:
    words = [FACTS["cross_steps"][place] for _, place, _ in cases()]
    assert {"default_": [0.2, 0.7], "mirror": [0.1, 0.9]} in words


@pytest.mark.parametrize(("number", "place", "steps"), cases())
def test_windows_hold_at_the_recorded_steps(
    clip: Any, number: int, place: int, steps: int
) -> None:
    said = FACTS["cross_steps"][place]
    said = dict(said) if isinstance(said, dict) else {"default_": said}
    tau_c = written(said.pop("default_", 1.0))
    wish = ", ".join(f"{word}: {written(bounds)}" for word, bounds in said.items())
    made = edit(clip, PAIRS[number], prompt_to_prompt.Window(0.0, 0.0),
                windows=f"tau_c: {tau_c}" + (", " + wish if wish else ""))
    first, second = made.weights(steps)
    aligned = made.targets[0].alignment.aligned
    held = RECORDED[f"{number}.alpha.{place}.{steps}"][:steps].float()
    assert torch.equal(first[:, 0], held * aligned)
    assert torch.equal(second[:, 0], 1 - held * aligned)


def emphases() -> list[tuple[int, int]]:
    """(pair, which of the recorded emphases) of clean pairs."""
    return [(number, place) for number in CLEAN for place in range(len(FACTS["equalizers"]))]


def spoken(place: int) -> tuple[list[str], str]:
    """The words of a recorded emphasis, and all of it as a person writes it."""
    words, values = FACTS["equalizers"][place]
    words = [words] if isinstance(words, str) else words
    return words, ", ".join(f"{w}: {v}" for w, v in zip(words, values, strict=True))


THERE = [(number, place) for number, place in emphases()
         if set(spoken(place)[0]) <= set(PAIRS[number]["b"].split(" "))]
ELSEWHERE = [(number, place) for number, place in emphases()
             if not set(spoken(place)[0]) <= set(re.findall(r"\w+", PAIRS[number]["b"].lower()))]


def test_every_recorded_emphasis_is_compared_and_most_are_missed_somewhere() -> None:
    assert {place for _, place in THERE} >= {0, 2} and len(THERE) >= 15
    assert {place for _, place in ELSEWHERE} >= {0, 1, 2} and len(ELSEWHERE) >= 15


@pytest.mark.parametrize(("number", "place"), THERE)
def test_emphasis_is_the_recorded_vector(clip: Any, number: int, place: int) -> None:
    (target,) = edit(
        clip, PAIRS[number], prompt_to_prompt.Window(0.0, 1.0), emphasis=spoken(place)[1]).targets
    assert target.emphasis is not None
    assert torch.equal(target.emphasis, RECORDED[f"{number}.equalizer.{place}"][0])


@pytest.mark.parametrize(("number", "place"), ELSEWHERE)
def test_emphasis_of_a_word_that_is_not_there_is_an_error(
    clip: Any, number: int, place: int
) -> None:
    with pytest.raises(ValueError, match="written in emphasis, is not in"):
        edit(clip, PAIRS[number], prompt_to_prompt.Window(0.0, 1.0), emphasis=spoken(place)[1])
