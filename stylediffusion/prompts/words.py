"""Words as people write them: one rule for the node and, in web/js/words.js, for its page.

Texts are compared folded: in one width (NFKC), without case, with plain quotes and dashes. What
stands between words is neither letter, digit, mark nor pictograph.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

# A character with the marks, kana voicing signs and Hangul vowels and finals that belong to it.
_JOINING = "\uff9e\uff9f\u200d"
_SINGLE, _DOUBLE, _DASHES = (
    "\u2018\u2019\u201a\u201b\u2032\u02b9\u02bb\u02bc`",
    "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u301d\u301e\u301f",
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2e3a")
_SAME = str.maketrans({
    char: plain for plain, chars in (("'", _SINGLE), ('"', _DOUBLE), ("-", _DASHES))
    for char in chars})
# Thai to Myanmar, Hangul Jamo, Khmer, Chinese and Japanese, Hangul: words touch each other there.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff]")
_GAP = r"[\s_-]+"
_GAP_IN_TEXT = r'[\s_"-]+'
_NEAR = 0.6


def clusters(text: str) -> list[str]:
    """The characters of a text, each with what joins it; together they are the text."""
    pieces: list[str] = []
    for char in text:
        joins = unicodedata.category(char)[0] == "M" or char in _JOINING or (
            "\u1160" <= char <= "\u11ff")
        if joins and pieces:
            pieces[-1] += char
        else:
            pieces.append(char)
    return pieces


def fold(text: str) -> str:
    """A text without what people do not mean by a word: case, width, kinds of quotes and dashes."""
    return "".join(_fold(cluster) for cluster in clusters(text))


def _fold(cluster: str) -> str:
    plain = unicodedata.normalize("NFKC", cluster.translate(_SAME))
    kept = [c for c in plain if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f"]
    return "".join(c.upper().lower() for c in kept)


def is_of_word(char: str) -> bool:
    """Whether a character is a letter, a digit, a mark or a pictograph."""
    category = unicodedata.category(char)
    return category[0] in "LNM" or category == "So"


def stripped(text: str) -> str:
    """A text without what stands around its words; as it is where that is all of it."""
    inside = [i for i, char in enumerate(text) if is_of_word(char)]
    return text[inside[0] : inside[-1] + 1] if inside else text


def bare(word: str) -> str:
    """A word folded, without what surrounds it: what makes two words the same."""
    return stripped(fold(word))


def find(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    """Where a phrase stands in a folded text: spans that neither begin nor end inside a word.

    In scripts without spaces, and for pictographs, every place counts. Spaces, underscores, dashes
    and quotes between the words of the phrase may differ.
    """
    wanted = bare(re.sub(r"\\([()])", r"\1", phrase))
    if not any(map(is_of_word, wanted)):
        return
    pattern = re.compile(_GAP_IN_TEXT.join(map(re.escape, re.split(_GAP, wanted))))
    match = pattern.search(text)
    while match:
        start, end = match.span()
        inside = _joined(text[start - 1 : start + 1] if start else "")
        if not inside and not _joined(text[end - 1 : end + 1]):
            yield start, end
        match = pattern.search(text, start + 1)


def _joined(pair: str) -> bool:
    """Whether two neighbours belong to one word."""
    if len(pair) < 2 or not all(map(is_of_word, pair)):
        return False
    is_free = any(_UNSPACED.match(c) or unicodedata.category(c) == "So" for c in pair)
    return unicodedata.category(pair[1])[0] == "M" or not is_free


def listed(texts: Iterable[str]) -> list[str]:
    """The words of some texts as typed, each once: what a message can name."""
    words: dict[str, str] = {}
    for text in texts:
        apart = "".join(c if is_of_word(c) or c in "'_\u2019-" else " " for c in text)
        for word in map(stripped, apart.split()):
            if any(map(is_of_word, word)):
                words.setdefault(bare(word), word)
    return list(words.values())


def nearest(phrase: str, texts: Iterable[str]) -> str | None:
    """What stands in some texts and is written nearly like a phrase, as typed; None without."""
    size = len(phrase.split())
    near: dict[str, str] = {}
    for text in texts:
        typed = text.split()
        for i in range(len(typed) - size + 1):
            run = stripped(" ".join(typed[i : i + size]))
            near.setdefault(fold(run), run)
        for word in listed([text]):
            near.setdefault(fold(word), word)
    matches = difflib.get_close_matches(bare(phrase), near, 1, _NEAR)
    return near[matches[0]] if matches else None


def likeness(text: str, other: str) -> float:
    """Share of their words that two texts have in common, 0 to 1."""
    ours, theirs = (Counter(map(bare, t.split())) for t in (text, other))
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())
