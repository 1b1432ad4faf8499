"""Prompts through the host's tokenizers and text encoders."""

from __future__ import annotations

from typing import Any

import comfy.sd1_clip

from ..alignment import TokenizedPrompt, Word
from ..artifacts import Conditioning


def encode(clip: Any, prompt: str) -> Conditioning:
    """CONDITIONING entries of a prompt, as the host's CLIP Text Encode makes them."""
    if clip is None:
        raise ValueError(
            "the CLIP input is None; the checkpoint has no text encoder. Load one that has, or "
            "connect a CLIP loader"
        )
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def tokenize(clip: Any, prompt: str) -> TokenizedPrompt:
    """A prompt's token ids and the positions of its words, split at white space.

    The host's weights, as in (tiger:1.3), are understood and leave no trace. Raises ValueError for
    prompts longer than one chunk of 77 tokens.
    """
    chunks = _token_chunks(clip, prompt)
    if len(chunks) > 1:
        raise ValueError(
            f"the prompt '{prompt}' is longer than 75 tokens; shorten it, since the alignment of "
            "words covers one chunk"
        )
    return TokenizedPrompt(prompt, tuple(chunks[0]), tuple(_words(clip, prompt)))


def _words(clip: Any, prompt: str) -> list[Word]:
    """Words with their positions; a weighted part that touches its neighbour is one word with it.

    In "(tiger:1.3), lying" the comma belongs to the tiger, as it would without the weight.
    """
    escaped = comfy.sd1_clip.escape_important(prompt)
    words: list[Word] = []
    position, touches = 1, False
    for text, _ in comfy.sd1_clip.token_weights(escaped, 1.0):
        segment = comfy.sd1_clip.unescape_important(text)
        for i, piece in enumerate(segment.split()):
            count = _token_count(_token_chunks(clip, _literal(piece))[0])
            positions = tuple(range(position, position + count))
            if i == 0 and touches and not segment[0].isspace():
                last = words.pop()
                words.append(Word(last.text + piece, last.positions + positions))
            else:
                words.append(Word(piece, positions))
            position += count
        touches = not segment[-1:].isspace() and bool(words)
    return [word for word in words if word.positions]


def _literal(text: str) -> str:
    """Text whose brackets are brackets to the host, and not weights."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _token_chunks(clip: Any, text: str) -> list[list[int]]:
    """Token ids of the first tokenizer (CLIP-L where there is one), a list a chunk."""
    found = clip.tokenize(text)
    chunks = found["l"] if "l" in found else next(iter(found.values()))
    return [[token if isinstance(token, int) else -1 for token, *_ in chunk] for chunk in chunks]


def _token_count(chunk: list[int]) -> int:
    """Tokens between the start token and the first end token."""
    end = chunk.index(49407) if 49407 in chunk else len(chunk)
    return end - 1
