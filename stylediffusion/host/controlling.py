"""From words to a CONTROL: target prompts through the host's tokenizer and text encoder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import notation
from ..alignment import TokenizedPrompt, refine, replace, same_word_count
from ..artifacts import Trajectory
from ..blend import Blend, painted_masks
from ..control import TAUS, Control, Target, Window, WordMasks, WordWindow
from . import text

log = logging.getLogger("stylediffusion")
MODES = ("auto", "replace", "refine")


@dataclass(frozen=True)
class Wishes:
    """What a person may say beside the targets, as written: one part for all, or one a target."""

    emphasis: str = ""
    windows: str = ""
    blend_words: str = ""
    subtract_words: str = ""


def make_control(
    clip: Any, trajectory: Trajectory, targets: str, mode: str, windows: dict[str, Window],
    wishes: Wishes | None = None, blend: Blend | None = None, mask: Tensor | None = None,
) -> Control:
    """A CONTROL for target prompts, one a line; `windows` holds tau_v, tau_c, tau_s and tau_u.

    A painted `mask` [1 or targets, H, W] stands in for where the blend words look. Raises
    ValueError naming the line or word where something does not fit.
    """
    lines = targets.strip().splitlines()
    if not lines:
        raise ValueError("targets is empty; write the edited prompt, one edit a line")
    wishes = wishes or Wishes()
    source = text.tokenize(clip, trajectory.prompt)
    prompts = [_tokenized(clip, line.strip(), i + 1) for i, line in enumerate(lines)]
    own_windows, word_windows = _windows(wishes.windows, prompts)
    emphasis = _emphasis(wishes.emphasis, prompts)
    blends = _word_masks(wishes.blend_words, "blend_words", source, prompts)
    subtracts = _word_masks(wishes.subtract_words, "subtract_words", source, prompts)
    painted = _painted(mask, len(prompts), trajectory)
    if mask is not None:
        blends = subtracts = [None] * len(prompts)
    made = []
    for i, prompt in enumerate(prompts):
        own = mode if mode != "auto" else _fitting_mode(source, prompt)
        alignment = replace(source, prompt) if own == "replace" else refine(source, prompt)
        if prompt.text == source.text and emphasis[i] is None:
            log.warning(
                "line %d of targets, '%s', is the source prompt itself, so this edit changes "
                "nothing; change a word, or give one an emphasis", i + 1, prompt.text,
            )
        made.append(Target(
            prompt.text, own, text.encode(clip, prompt.text), alignment, emphasis[i],
            word_windows[i], blends[i], subtracts[i], own_windows[i], painted[i]))
    return Control(trajectory.prompt, tuple(made), **windows, blend=blend or Blend())


def _tokenized(clip: Any, prompt: str, line: int) -> TokenizedPrompt:
    if not prompt:
        raise ValueError(f"line {line} of targets is empty; remove it or write a prompt")
    return text.tokenize(clip, prompt)


def _painted(mask: Tensor | None, count: int, trajectory: Trajectory) -> list[Tensor | None]:
    """The painted mask of each target at the latent's size, None where nothing is painted."""
    if mask is None:
        return [None] * count
    if not mask.any():
        log.warning("the mask is empty, so no edit shows; paint the region, or disconnect it")
    return list(painted_masks(mask, count, *trajectory.latents.shape[-2:]))


def _fitting_mode(source: TokenizedPrompt, target: TokenizedPrompt) -> str:
    return "replace" if same_word_count(source, target) else "refine"


def _windows(
    written: str, prompts: list[TokenizedPrompt]
) -> tuple[list[dict[str, Window]], list[tuple[WordWindow, ...]]]:
    """For each target the tau windows that were written, and those of single words."""
    taus: list[dict[str, Window]] = [{} for _ in prompts]
    words: list[list[WordWindow]] = [[] for _ in prompts]
    one_line = written.replace("\n", ",")
    for part, group in notation.parts_of(one_line, len(prompts), "windows"):
        chosen = [prompts[i] for i in group]
        for name, value in notation.pairs(part, "windows"):
            window = notation.window(value, name)
            found = [()] * len(group) if name in TAUS else _somewhere(name, chosen, "windows")
            for i, positions in zip(group, found, strict=True):
                if name in TAUS:
                    taus[i][name] = window
                elif positions:
                    words[i].append(WordWindow(positions, window))
    return taus, [tuple(found) for found in words]


def _emphasis(written: str, prompts: list[TokenizedPrompt]) -> list[Tensor | None]:
    """A factor for each token of each target, None where nothing was asked."""
    factors: list[Tensor | None] = [None for _ in prompts]
    for part, group in notation.parts_of(written, len(prompts), "emphasis"):
        for name, value in notation.pairs(part, "emphasis"):
            number = notation.factor(value, name)
            chosen = [prompts[i] for i in group]
            for i, positions in zip(group, _somewhere(name, chosen, "emphasis"), strict=True):
                if positions:
                    made = factors[i]
                    made = torch.ones(len(prompts[i].token_ids)) if made is None else made
                    made[list(positions)] = number
                    factors[i] = made
    return factors


def _word_masks(
    written: str, what: str, source: TokenizedPrompt, prompts: list[TokenizedPrompt]
) -> list[WordMasks | None]:
    """Masks over source and target tokens of the words that were named, None where none was."""
    masks: list[WordMasks | None] = [None for _ in prompts]
    for part, group in notation.parts_of(written, len(prompts), what):
        words = notation.word_list(part)
        chosen = [source, *(prompts[i] for i in group)]
        found = [_somewhere(word, chosen, what) for word in words]
        for place, i in enumerate(group, start=1):
            if words:
                masks[i] = WordMasks(
                    _mask(source, [row[0] for row in found]),
                    _mask(prompts[i], [row[place] for row in found]))
    return masks


def _somewhere(
    word: str, prompts: list[TokenizedPrompt], what: str
) -> list[tuple[int, ...]]:
    """A word's positions in each prompt; raises ValueError where it is in none of them."""
    found = [prompt.positions(word) for prompt in prompts]
    if not any(found):
        texts = ", ".join(f"'{prompt.text}'" for prompt in prompts)
        raise ValueError(
            f"'{word}', written in {what}, is not a word of {texts}; write it as the prompt does")
    return found


def _mask(prompt: TokenizedPrompt, found: list[tuple[int, ...]]) -> Tensor:
    mask = torch.zeros(len(prompt.token_ids))
    for positions in found:
        mask[list(positions)] = 1
    return mask
