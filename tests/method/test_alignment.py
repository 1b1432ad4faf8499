"""Replace and Refine against matrices recorded from the released code."""

from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import alignment
from stylediffusion_pack.stylediffusion.prompts.positions import positions_of

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
    assert found.aligned.all()


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
    assert found.aligned.all()


def test_target_columns_left_over_keep_their_own_map() -> None:
    source, target = words_of("a brachiosaurus", [1, 4]), words_of("a dog", [1, 1])
    found = alignment.replace(source, target)
    assert found.mapper[2:6, 2].tolist() == [1, 1, 1, 1]
    assert found.mapper[76, 73] == 1
    assert found.aligned[74:].tolist() == [0, 0, 0]
    assert found.mapper[:, 74:].sum() == 0
    assert not found.aligned.all()


def test_replace_of_unequal_word_counts_names_both_prompts_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="'a cat' has 2 words.*'a big cat' has 3.*Refine"):
        alignment.replace(words_of("a cat", [1, 1]), words_of("a big cat", [1, 1, 1]))


def test_words_are_found_without_case_and_punctuation() -> None:
    found = words_of("A Cat, sitting", [1, 2, 1])
    assert positions_of("cat", found) == (2, 3)
    assert positions_of("tiger", found) == ()


@pytest.mark.parametrize(("wanted", "positions"), [
    ("red", (1,)), ("red cats", (1, 2, 3, 4, 5)), ("cats", (2, 3, 4, 5)), ("dog", (6,)),
    ("dog's", (6, 7)), ("&", (8,)), ("!", ()), ("cat", ()),
])
def test_a_whole_word_has_its_punctuation_and_a_part_of_one_only_its_own(
    wanted: str, positions: tuple[int, ...]
) -> None:
    def spelled(text: str, *owners: int) -> alignment.Word:
        return alignment.Word(
            text, tuple(dict.fromkeys(owners)), tuple((owner,) for owner in owners))

    words = (spelled("red", 1, 1, 1), spelled('"cats",', 2, 3, 3, 3, 3, 4, 5),
             spelled("Dog's", 6, 6, 6, 7, 7), spelled("&", 8))
    prompt = alignment.TokenizedPrompt("red \"cats\", Dog's &", tuple(range(77)), words)
    assert positions_of(wanted, prompt) == positions


def chunks(*counts: int) -> alignment.TokenizedPrompt:
    """A prompt of so many different words of one token in each of its chunks."""
    ids, words = [], []
    for chunk, count in enumerate(counts):
        start = 77 * chunk
        words += [alignment.Word(f"w{start + i}", (start + i,)) for i in range(1, count + 1)]
        own = [49406, *range(start + 1, start + count + 1)]
        ids += own + [49407] * (77 - len(own))
    return alignment.TokenizedPrompt("", tuple(ids), tuple(words))


@pytest.mark.parametrize("before", range(60, 76))
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_prompt_replaced_by_itself_keeps_every_map_where_a_word_straddles_two_chunks(
    before: int, tokens: int
) -> None:
    """So many words of one token, then ten of one to three, over one chunk or two."""
    places = [77 * (i // 75) + 1 + i % 75 for i in range(before + 10 * tokens)]
    split = [[place] for place in places[:before]] + [
        places[i : i + tokens] for i in range(before, len(places), tokens)]
    words = tuple(alignment.Word(f"w{i}", tuple(own)) for i, own in enumerate(split))
    length = 77 * (1 + (len(places) - 1) // 75)
    ids = [0] * length
    prompt = alignment.TokenizedPrompt("", tuple(ids), words)
    assert torch.equal(alignment.replace(prompt, prompt).mapper, torch.eye(length))


def test_words_past_the_first_chunk_are_refined_like_all_others() -> None:
    found = alignment.refine(chunks(75, 3), chunks(75, 5))
    assert found.mapper.shape == (154, 154)
    assert all(found.mapper[i, i] == 1 for i in (0, 1, 75, 76, 77, 78, 79, 80, 153))
    assert found.aligned[81:83].tolist() == [0, 0] and found.aligned.sum() == 152


@pytest.mark.parametrize("target", [chunks(75, 2), chunks(75, 75, 3)])
def test_padding_of_a_longer_prompt_draws_in_sum_what_the_sources_does(
    target: alignment.TokenizedPrompt
) -> None:
    """The source ends at 7, so 69 of its tokens are padding, behind the one end token."""
    found = alignment.refine(chunks(6), target)
    padding = found.mapper[8:, target.length :]
    torch.testing.assert_close(padding.sum(1), torch.ones(69))
    assert not found.mapper[8:, : target.length].any(), "only padding follows padding"


def test_replace_takes_words_over_into_another_chunk() -> None:
    one = alignment.TokenizedPrompt(
        "", chunks(10).token_ids, (*chunks(10).words[:9], alignment.Word("w", (10,))))
    two = alignment.TokenizedPrompt(
        "", chunks(75, 4).token_ids,
        (*chunks(9).words, alignment.Word("long", (*range(10, 76), 78, 79, 80, 81))))
    found = alignment.replace(one, two)
    assert all(found.mapper[i, i] == 1 for i in range(10))
    torch.testing.assert_close(found.mapper[10].sum(), torch.tensor(1.0))
    assert found.aligned[76:78].tolist() == [0, 0], "an inner end and start keep their own map"
    torch.testing.assert_close(found.mapper[11:].sum(1), torch.ones(66))


def ones_at(rows: int, columns: int, *pairs: tuple[int, int]) -> torch.Tensor:
    mapper = torch.zeros(rows, columns)
    for i, j in pairs:
        mapper[i, j] = 1
    return mapper


def with_last(prompt: alignment.TokenizedPrompt, count: int, *last: int) -> Any:
    """The prompt's ids; its first words, and one more at these positions."""
    words = (*prompt.words[:count], alignment.Word("last", last))
    return alignment.TokenizedPrompt("", prompt.token_ids, words)


def test_end_and_start_between_two_chunks_follow_those_of_the_source() -> None:
    found = alignment.replace(chunks(75, 2), chunks(75, 2))
    assert torch.equal(found.mapper, torch.eye(154))


@pytest.mark.parametrize("last", [(10,), (10, 11)])
def test_end_and_start_that_only_the_target_has_between_its_words_keep_their_own_map(
    last: tuple[int, ...]
) -> None:
    """Nine words, and one: right behind them in the source, in another chunk in the target."""
    one = with_last(chunks(9 + len(last), 0), 9, *last)
    two = with_last(chunks(75, 1), 9, 78)
    found = alignment.replace(one, two)
    pairs = [(i, i) for i in range(10)] + [(i, 78) for i in last]
    assert torch.equal(found.mapper[:, :79], ones_at(154, 79, *pairs))
    assert found.aligned[10:78].sum() == 0


@pytest.mark.parametrize("last", [(10,), (10, 11)])
def test_end_and_start_that_only_the_source_has_between_its_words_are_drawn_by_nothing(
    last: tuple[int, ...]
) -> None:
    one, two = with_last(chunks(75, 1), 9, 78), with_last(chunks(9 + len(last), 0), 9, *last)
    found = alignment.replace(one, two).mapper[:, : last[-1] + 1]
    wanted = ones_at(154, last[-1] + 1, *((i, i) for i in range(10)))
    wanted[78, list(last)] = 1 / len(last)
    assert torch.equal(found, wanted)


def test_the_one_end_token_of_a_full_prompt_draws_what_all_padding_of_a_longer_one_does() -> None:
    """The source's 75th word has a token in the second chunk; the target is full at 75 words."""
    longer = with_last(chunks(75, 1), 74, 75, 78)
    found = alignment.replace(longer, chunks(75)).mapper
    assert found.shape == (154, 77)
    assert found[75, 75] == found[78, 75] == 1
    assert found[79:, 76].tolist() == [1] * 75 and found[:79, 76].sum() == 0


@pytest.mark.parametrize(("source", "target", "pairs"), [
    ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
    ([1, 2, 3], [1, 3], [(0, 0), (2, 1)]),
    ([1, 3], [1, 2, 3], [(0, 0), (1, 2)]),
    ([1, 9, 3], [1, 8, 3], [(0, 0), (2, 2)]),
    ([1, 2, 4, 5], [1, 4, 2, 5], [(0, 0), (2, 1), (3, 3)]),
    ([4, 1], [5, 1], [(1, 1)]), ([1, 4], [1, 5], [(0, 0)]), ([1], [2], []), ([], [1], []),
    ([1, 1], [1], [(0, 0)]), ([1], [1, 1], [(0, 0)]),
])
def test_tokens_are_matched_in_order_and_never_with_others(
    source: list[int], target: list[int], pairs: list[tuple[int, int]]
) -> None:
    assert alignment.global_alignment(source, target) == pairs


def test_a_prompt_without_words_is_as_long_as_its_start_and_end() -> None:
    assert chunks(0).length == 2 and chunks(3).length == 5 and chunks(75, 2).length == 81
