"""Prompts through the host's tokenizers and text encoders."""

from __future__ import annotations

import logging
import math
import re
import zlib
from typing import Any

import comfy.sd1_clip
import torch
from torch import Tensor

from ..method.alignment import TokenizedPrompt, Word
from ..method.data import Conditioning, relative_difference
from ..prompts.words import clusters, fold

log = logging.getLogger("stylediffusion")
ROUNDING = 1e-3
NO_ENCODER = ("the CLIP input is None; the checkpoint has no text encoder. Load one that has, or "
              "connect a CLIP loader")
# CLIP's vocabulary writes a byte as the character of that number, or, where that is no visible one,
# as the next from 256 on.
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _VISIBLE]
SPACE_BEFORE_NAME = re.compile(r"(?:(?<=\s)|^)embedding:\s+(?=\S)")  # which the host overlooks
BYTES = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + i): b for i, b in enumerate(_OTHERS)}


def encode(clip: Any, prompt: str) -> Conditioning:
    """CONDITIONING of a prompt, one entry, as the host's CLIP Text Encode makes it.

    Raises ValueError without a text encoder, for one whose hooks change with the steps, and for a
    weight that is no number.
    """
    if clip is None:
        raise ValueError(NO_ENCODER)
    _require_weights(prompt)
    entries: Conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    if len(entries) > 1 or any(map(_is_scheduled, hooks_of(entries))):
        raise ValueError(
            "a hook of the CLIP changes its strength on the way, which the host can follow from "
            "noise to picture only, and an inversion goes up and down; take Set Hook Keyframes away"
        )
    return entries


def _is_scheduled(hook: Any) -> bool:
    return len({keyframe.strength for keyframe in hook.hook_keyframe.keyframes}) > 1


def stacked(prompts: list[Conditioning]) -> Conditioning:
    """One conditioning entry with a row a prompt, so that the host pairs rows with latents.

    Shorter prompts are repeated to the length of all, as the host does with two. A saved prompt is
    on the CPU, a new one where the host keeps its own: all go to the first one's device. Raises
    ValueError where some prompts have hooks that others have not.
    """
    entries = [prompt[0] for prompt in prompts]
    if any(hooks_of([entry]) != hooks_of(entries[:1]) for entry in entries):
        raise ValueError(
            "some prompts have hooks, such as a LoRA's from Set CLIP Hooks, that the others have "
            "not, but source and edits are painted by one model; connect the same CLIP to DDIM "
            "Invert and to P2Plus Controller")
    device = entries[0][0].device
    length = math.lcm(*(tensor.shape[1] for tensor, _ in entries))
    merged = dict(entries[0][1])
    for key, value in entries[0][1].items():
        if isinstance(value, Tensor) and value.shape[:1] == (1,):
            merged[key] = torch.cat([entry[1][key].to(device) for entry in entries])
    rows = [tensor.to(device).repeat(1, length // tensor.shape[1], 1) for tensor, _ in entries]
    return [(torch.cat(rows), merged)]


def hooks_of(prompt: Conditioning) -> list[Any]:
    """What the host applies to the model for a prompt, from Set CLIP Hooks."""
    hooks = prompt[0][1].get("hooks")
    return [] if hooks is None else list(hooks.hooks)


def _require_weights(prompt: str) -> None:
    """Raise ValueError for a weight as in (car:nan), which would make all of the picture NaN."""
    escaped = comfy.sd1_clip.escape_important(prompt)
    for part, weight in comfy.sd1_clip.token_weights(escaped, 1.0):
        if not math.isfinite(weight):
            raise ValueError(
                f"the weight of '{comfy.sd1_clip.unescape_important(part)}' in '{prompt}' is "
                f"{weight}; write a number, as in (word:1.2)"
            )


def require_encoder_of(positive: Conditioning, encoded: Conditioning, prompt: str) -> None:
    """Raise ValueError where a prompt was encoded to another width than a trajectory's.

    `encoded` is the trajectory's own prompt, encoded anew: where it comes out otherwise, by more
    than rounding, that is a warning.
    """
    (ours, extra), (theirs, their_extra) = encoded[0], positive[0]
    ours, theirs = (tensor.to("cpu", torch.float32) for tensor in (ours, theirs))
    for what, *pair in (
        ("numbers for each token", ours, theirs),
        ("pooled numbers", extra.get("pooled_output"), their_extra.get("pooled_output")),
    ):
        sizes = ["no" if tensor is None else tensor.shape[-1] for tensor in pair]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the CLIP gives {sizes[0]} {what}, but the one the trajectory was made with gave "
                f"{sizes[1]}; connect the CLIP that made the trajectory, of the same checkpoint"
            )
    if ours.shape != theirs.shape or relative_difference(ours, theirs) > ROUNDING:
        log.warning(
            "the CLIP encodes '%s' otherwise than when the trajectory was made, so the edits start "
            "from other words than the picture; connect the same CLIP here as there, behind the "
            "same CLIP Set Last Layer and LoRAs", prompt)


def tokenize(clip: Any, prompt: str) -> TokenizedPrompt:
    """A prompt's token ids, all chunks of 77 in a row, and the positions of its words.

    Words are split at white space, as the released code counts them; each knows which tokens spell
    its characters. The host's weights, as in (tiger:1.3), are understood and leave
    no trace.
    """
    ids, positions = _tokens(clip, prompt)
    return TokenizedPrompt(prompt, tuple(ids), tuple(_words(clip, prompt, ids, positions)))


def _words(clip: Any, prompt: str, ids: list[int], positions: list[int]) -> list[Word]:
    """Words with their positions; a weighted part that touches its neighbour is one word with it.

    In "(tiger:1.3), lying" the comma belongs to the tiger, as it would without the weight.
    """
    escaped = comfy.sd1_clip.escape_important(prompt)
    words: list[Word] = []
    place, touches = 0, False
    for text, _ in comfy.sd1_clip.token_weights(escaped, 1.0):
        segment = comfy.sd1_clip.unescape_important(text)
        segment = SPACE_BEFORE_NAME.sub("embedding:", segment)
        for i, piece in enumerate(segment.split()):
            count = len(_tokens(clip, _literal(piece))[1])
            places = tuple(positions[place : place + count])
            characters = _characters(clip, piece, places, [ids[p] for p in places])
            if i == 0 and touches and not segment[0].isspace():
                last = words.pop()
                words.append(Word(
                    last.text + piece, last.positions + places, last.characters + characters))
            else:
                words.append(Word(piece, places, characters))
            place += count
        touches = not segment[-1:].isspace() and bool(words)
    return [word for word in words if word.positions]


def _characters(
    clip: Any, word: str, positions: tuple[int, ...], ids: list[int]
) -> tuple[tuple[int, ...], ...]:
    """The positions that spell each character of a folded word; nothing where they do not."""
    spelt = [_spelling(clip, token) for token in ids]
    owners = [p for p, piece in zip(positions, spelt, strict=True) for _ in piece]
    place, folded, spelling = 0, "", list[tuple[int, ...]]()
    for cluster in clusters(b"".join(spelt).decode(errors="replace")):
        size, part = len(cluster.encode()), fold(cluster)
        spelling += [tuple(dict.fromkeys(owners[place : place + size]))] * len(part)
        place, folded = place + size, folded + part
    return tuple(spelling) if folded == fold(word) else ()


def _spelling(clip: Any, token: int) -> bytes:
    """The bytes that a token of CLIP's vocabulary stands for; none for any other."""
    spell = getattr(getattr(clip, "tokenizer", None), "untokenize", None)
    if spell is None or token < 0:
        return b""
    (_, piece), = spell([(token,)])
    piece = str(piece).removesuffix("</w>")
    return bytes(BYTES[c] for c in piece) if all(c in BYTES for c in piece) else b""


def _literal(text: str) -> str:
    """Text whose brackets are brackets to the host, and not weights."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _tokens(clip: Any, text: str) -> tuple[list[int], list[int]]:
    """(token ids of all chunks, positions of those that are no start, end or padding).

    By the first tokenizer (CLIP-L where there is one); an embedding's vectors have negative ids,
    the same wherever the same vector stands.
    """
    by_encoder = clip.tokenize(text, return_word_ids=True)
    chunks = by_encoder["l"] if "l" in by_encoder else next(iter(by_encoder.values()))
    tokens = [token for chunk in chunks for token in chunk]
    ids = [token if isinstance(token, int) else _vector_id(token) for token, *_ in tokens]
    return ids, [i for i, (_, _, word_id) in enumerate(tokens) if word_id]


def _vector_id(vector: Tensor) -> int:
    return -1 - zlib.crc32(vector.detach().to("cpu", torch.float32).numpy().tobytes())
