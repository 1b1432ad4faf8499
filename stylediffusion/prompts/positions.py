"""Where a word or a phrase stands in a tokenized prompt."""

from __future__ import annotations

from ..method.alignment import TokenizedPrompt
from .words import bare, find, fold, is_of_word


def positions_of(wanted: str, prompt: TokenizedPrompt) -> tuple[int, ...]:
    """Positions of the tokens of a word or phrase wherever it stands, none where it does not.

    What fills words from space to space has their punctuation too, as in the released code; a part
    of a word has its own tokens only. Signs without a letter are found as whole words.
    """
    if not any(map(is_of_word, fold(wanted))):
        same = (word.positions for word in prompt.words if bare(word.text) == bare(wanted))
        return tuple(p for positions in same for p in positions)
    text, owners = _characters(prompt)
    positions: dict[int, None] = {}
    for start, end in find(text, wanted):
        left, right = text.rfind(" ", 0, start) + 1, (text + " ").index(" ", end)
        if not any(map(is_of_word, text[left:start] + text[end:right])):
            start, end = left, right
        positions.update(dict.fromkeys(p for tokens in owners[start:end] for p in tokens))
    return tuple(positions)


def _characters(prompt: TokenizedPrompt) -> tuple[str, list[tuple[int, ...]]]:
    """The folded words between spaces, and the positions of every character of that."""
    texts, owners = [], []
    for word in prompt.words:
        folded = fold(word.text).replace(" ", "_")
        known = len(word.characters) == len(folded)
        texts.append(folded)
        owners += [*(word.characters if known else [word.positions] * len(folded)), ()]
    return " ".join(texts), owners
