"""Replace and Refine against matrices recorded from the released code."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion import alignment

from tests import golden

PAIRS = golden.facts("alignment")["pairs"]
RECORDED = golden.tensors("alignment")


def prompt(pair: dict[str, Any], side: str) -> alignment.TokenizedPrompt:
    """A prompt as the host's tokenizer gives it, built from recorded ids and word positions."""
    text, ids = pair[side], pair[f"ids_{side}"]
    found = {i: p for t, i, p, _ in pair["word_inds"] if t == text and isinstance(i, int)}
    words = tuple(alignment.Word(w, tuple(found[i])) for i, w in enumerate(text.split(" ")))
    padded = (ids + [49407] * 77)[:77]
    return alignment.TokenizedPrompt(text, tuple(padded), words)


def is_clean(pair: dict[str, Any]) -> bool:
    """Whether every word of both prompts has tokens, as in prompts without stray spaces."""
    return all(
        len(pair[f"ids_{s}"]) <= 77 and pair[s].split() == pair[s].split(" ")
        and sum(len(p) for t, i, p, _ in pair["word_inds"]
                if t == pair[s] and isinstance(i, int)) == len(pair[f"ids_{s}"]) - 2
        for s in "ab")


CLEAN = [p for p in PAIRS if is_clean(p)]


def token_counts(p: alignment.TokenizedPrompt) -> list[int]:
    return [len(w.positions) for w in p.words]


def test_most_recorded_pairs_are_used() -> None:
    assert len(CLEAN) >= 15


def has_equal_counts(pair: dict[str, Any]) -> bool:
    """Whether the original's matrix is right: it drifts where token counts differ."""
    recorded = f"{pair['pair']}.replacement" in RECORDED
    return recorded and token_counts(prompt(pair, "a")) == token_counts(prompt(pair, "b"))


EQUAL = [p for p in CLEAN if has_equal_counts(p)]


def test_some_recorded_pairs_have_equal_token_counts() -> None:
    assert len(EQUAL) >= 5


@pytest.mark.parametrize("pair", EQUAL, ids=lambda p: p["b"][:40])
def test_replace_is_the_recorded_matrix_where_token_counts_agree(pair: dict[str, Any]) -> None:
    found = alignment.replace(prompt(pair, "a"), prompt(pair, "b"))
    assert torch.equal(found.mapper, RECORDED[f"{pair['pair']}.replacement"][0])
    assert found.is_complete


@pytest.mark.parametrize("pair", CLEAN, ids=lambda p: p["b"][:40])
def test_refine_is_the_recorded_gather(pair: dict[str, Any]) -> None:
    index = RECORDED.get(f"{pair['pair']}.refine_mapper")
    assert index is not None
    kept = RECORDED[f"{pair['pair']}.refine_alphas"][0]
    found = alignment.refine(prompt(pair, "a"), prompt(pair, "b"))
    assert torch.equal(found.aligned, kept)
    columns = torch.nonzero(kept).flatten()
    assert torch.equal(found.mapper.argmax(0)[columns], index[0][columns])
    assert torch.equal(found.mapper.sum(0), kept)


def words_of(text: str, counts: list[int]) -> alignment.TokenizedPrompt:
    words, position = [], 1
    for word, count in zip(text.split(), counts, strict=True):
        words.append(alignment.Word(word, tuple(range(position, position + count))))
        position += count
    return alignment.TokenizedPrompt(text, tuple(range(77)), tuple(words))


def test_words_after_a_longer_word_are_shifted_and_the_end_follows_the_end() -> None:
    source, target = words_of("a dog barks", [1, 1, 1]), words_of("a brachiosaurus barks",
                                                                  [1, 4, 1])
    found = alignment.replace(source, target)
    assert found.mapper[2, 2:6].tolist() == [0.25] * 4
    assert found.mapper[3, 6] == 1
    assert found.mapper[4, 7] == 1
    assert found.mapper[73, 76] == 1
    assert found.is_complete


def test_target_columns_left_over_keep_their_own_map() -> None:
    source, target = words_of("a brachiosaurus", [1, 4]), words_of("a dog", [1, 1])
    found = alignment.replace(source, target)
    assert found.mapper[2:6, 2].tolist() == [1, 1, 1, 1]
    assert found.mapper[76, 73] == 1
    assert found.aligned[74:].tolist() == [0, 0, 0]
    assert found.mapper[:, 74:].sum() == 0


def test_replace_of_unequal_word_counts_names_both_prompts_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="'a cat' has 2 words.*'a big cat' has 3.*Refine"):
        alignment.replace(words_of("a cat", [1, 1]), words_of("a big cat", [1, 1, 1]))


def test_words_are_found_without_case_and_punctuation() -> None:
    found = words_of("A Cat, sitting", [1, 2, 1])
    assert found.positions("cat") == (2, 3)
    assert found.positions("tiger") == ()
