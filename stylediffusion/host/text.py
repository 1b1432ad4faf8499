"""Prompts through the host's tokenizers and text encoders."""

from __future__ import annotations

import zlib
from typing import Any

import comfy.sd1_clip
import torch
from torch import Tensor

from ..alignment import TokenizedPrompt, Word
from ..artifacts import Conditioning


def encode(clip: Any, prompt: str) -> Conditioning:
    """CONDITIONING of a prompt, one entry, as the host's CLIP Text Encode makes it.

    Raises ValueError without a text encoder, and for one whose hooks change with the steps.
    """
    if clip is None:
        raise ValueError(
            "the CLIP input is None; the checkpoint has no text encoder. Load one that has, or "
            "connect a CLIP loader"
        )
    entries: Conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    if len(entries) > 1:
        raise ValueError(
            f"the CLIP gives {len(entries)} prompts that follow each other, since its hooks are "
            "scheduled, but an inversion has one; turn schedule_clip off in Set CLIP Hooks"
        )
    return entries


def tokenize(clip: Any, prompt: str) -> TokenizedPrompt:
    """A prompt's token ids, all chunks of 77 in a row, and the positions of its words.

    Words are split at white space. The host's weights, as in (tiger:1.3), are understood and leave
    no trace.
    """
    ids, positions = _tokens(clip, prompt)
    return TokenizedPrompt(prompt, tuple(ids), tuple(_words(clip, prompt, positions)))


def _words(clip: Any, prompt: str, positions: list[int]) -> list[Word]:
    """Words with their positions; a weighted part that touches its neighbour is one word with it.

    In "(tiger:1.3), lying" the comma belongs to the tiger, as it would without the weight.
    """
    escaped = comfy.sd1_clip.escape_important(prompt)
    words: list[Word] = []
    place, touches = 0, False
    for text, _ in comfy.sd1_clip.token_weights(escaped, 1.0):
        segment = comfy.sd1_clip.unescape_important(text)
        for i, piece in enumerate(segment.split()):
            count = len(_tokens(clip, _literal(piece))[1])
            own = tuple(positions[place : place + count])
            if i == 0 and touches and not segment[0].isspace():
                last = words.pop()
                words.append(Word(last.text + piece, last.positions + own))
            else:
                words.append(Word(piece, own))
            place += count
        touches = not segment[-1:].isspace() and bool(words)
    return [word for word in words if word.positions]


def _literal(text: str) -> str:
    """Text whose brackets are brackets to the host, and not weights."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _tokens(clip: Any, text: str) -> tuple[list[int], list[int]]:
    """(token ids of all chunks, positions of those that are no start, end or padding).

    By the first tokenizer (CLIP-L where there is one); an embedding's vectors have negative ids,
    the same wherever the same vector stands.
    """
    found = clip.tokenize(text, return_word_ids=True)
    chunks = found["l"] if "l" in found else next(iter(found.values()))
    tokens = [token for chunk in chunks for token in chunk]
    ids = [token if isinstance(token, int) else _vector_id(token) for token, *_ in tokens]
    return ids, [i for i, (_, _, word_id) in enumerate(tokens) if word_id]


def _vector_id(vector: Tensor) -> int:
    return -1 - zlib.crc32(vector.detach().to("cpu", torch.float32).numpy().tobytes())
