"""Words and tokens: whose map each target token has (Prompt-to-Prompt, section 3.2).

Both mappers are matrices P [source tokens, target tokens] with a mask r over target tokens: a
target column is A_source @ P where r is 1 and the target's own map where r is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Word:
    """What stands between spaces, as typed, and the positions of its tokens in the encoded prompt.

    `characters` holds the positions for each character of the folded text; where the tokens do not
    spell it, it is empty, and every character has all positions.
    """

    text: str
    positions: tuple[int, ...]
    characters: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt, its token ids with start, end and padding, and its words in order."""

    text: str
    token_ids: tuple[int, ...]
    words: tuple[Word, ...]

    @property
    def length(self) -> int:
        """Tokens from the first start token to the end token after the last word."""
        return 2 + max((word.positions[-1] for word in self.words), default=0)


@dataclass(frozen=True)
class Alignment:
    """P [source tokens, target tokens] and r [target tokens], fp32."""

    mapper: Tensor
    aligned: Tensor


def same_word_count(source: TokenizedPrompt, target: TokenizedPrompt) -> bool:
    """Whether words can be replaced one for one."""
    return len(source.words) == len(target.words)


def replace(source: TokenizedPrompt, target: TokenizedPrompt) -> Alignment:
    """Replace: the i-th target word takes over the map of the i-th source word.

    A changed word with another number of tokens shares its source word's map evenly; all other
    positions, end token and padding included, keep advancing together. Target positions left over
    when the source is used up keep their own map. For prompts of another number of chunks see
    `_share_padding`. Raises ValueError on different word counts.
    """
    if not same_word_count(source, target):
        raise ValueError(
            f"Replace needs prompts of equal word count, but '{source.text}' has "
            f"{len(source.words)} words and '{target.text}' has {len(target.words)}; "
            "use Refine (mode: auto), or give the target as many words"
        )
    size_source, size_target = len(source.token_ids), len(target.token_ids)
    mapper = torch.zeros(size_source, size_target)
    i = j = 0
    for old, new in zip(source.words, target.words, strict=True):
        while i < old.positions[0] and j < new.positions[0]:
            mapper[i, j] = 1
            i, j = i + 1, j + 1
        if len(old.positions) == len(new.positions):
            mapper[old.positions, new.positions] = 1
        else:
            for position in new.positions:
                mapper[old.positions, position] = 1 / len(new.positions)
        for pair in zip(_inside(old), _inside(new), strict=False):
            mapper[pair] = 1
        i, j = old.positions[-1] + 1, new.positions[-1] + 1
    if size_source != size_target:
        _share_padding(mapper, i, j)
    while size_source == size_target and i < size_source and j < size_target:
        mapper[i, j] = 1
        i, j = i + 1, j + 1
    return Alignment(mapper, mapper.any(0).float())


def _inside(word: Word) -> list[int]:
    """Positions among a word's that are not its own: end and start, where two chunks part it."""
    whole = range(word.positions[0], word.positions[-1])
    return [place for place in whole if place not in word.positions]


def _share_padding(mapper: Tensor, i: int, j: int) -> None:
    """Target padding from j on shares the map of all source padding from i on.

    For prompts of different lengths, whose positions have no counterparts: what the padding draws
    in sum stays what it is in the source.
    """
    mapper[i:, j:] = 1 / max(1, mapper.shape[1] - j)


def refine(source: TokenizedPrompt, target: TokenizedPrompt) -> Alignment:
    """Refine: tokens the prompts share take over the source's map, new tokens keep their own.

    Shared tokens are found by global alignment of the token ids; padding follows padding, and for
    prompts of another number of chunks see `_share_padding`.
    """
    size_source, size_target = len(source.token_ids), len(target.token_ids)
    pairs = global_alignment(source.token_ids[: source.length], target.token_ids[: target.length])
    mapper = torch.zeros(size_source, size_target)
    for i, j in pairs:
        mapper[i, j] = 1
    if size_source != size_target:
        _share_padding(mapper, source.length, target.length)
    else:
        padding = range(target.length, size_target)
        mapper[padding, padding] = 1
    return Alignment(mapper, mapper.any(0).float())


def global_alignment(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int]]:
    """Needleman-Wunsch with gap 0, match 1, mismatch -1: the pairs (i, j) that were matched.

    Ties prefer a gap in the source, then a gap in the target, then the diagonal, as the released
    code does.
    """
    rows, columns = len(source) + 1, len(target) + 1
    score = [[0] * columns for _ in range(rows)]
    for i in range(1, rows):
        for j in range(1, columns):
            match = 1 if source[i - 1] == target[j - 1] else -1
            score[i][j] = max(score[i][j - 1], score[i - 1][j], score[i - 1][j - 1] + match)
    pairs = []
    i, j = rows - 1, columns - 1
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
