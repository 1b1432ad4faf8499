"""From words to a CONTROL: target prompts through the host's tokenizer and text encoder."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...method.alignment import TokenizedPrompt, refine, replace, same_word_count
from ...method.data import Trajectory
from ...method.local_blend import Blend, painted_masks
from ...method.prompt_to_prompt import TAUS, Control, Target, Window, WordMasks, WordWindow
from ...prompts import notation
from ...prompts.positions import positions_of
from ...prompts.words import bare, fold, listed, nearest
from .. import text_encoder

log = logging.getLogger("stylediffusion")
MODES = ("auto", "replace", "refine")


@dataclass(frozen=True)
class WordOptions:
    """What may be written beside the targets, as written: one part for all, or one a target."""

    emphasis: str = ""
    windows: str = ""
    blend_words: str = ""
    subtract_words: str = ""


def make_control(
    clip: Any, trajectory: Trajectory, targets: str, mode: str, windows: dict[str, Window],
    options: WordOptions | None = None, blend: Blend | None = None, mask: Tensor | None = None,
) -> Control:
    """A CONTROL for target prompts, one a line; `windows` holds tau_v, tau_c, tau_s and tau_u.

    A painted `mask` [1 or targets, H, W] stands in for where the blend words look. Raises
    ValueError naming the line or word where something does not fit.
    """
    options, blend = options or WordOptions(), blend or Blend()
    _require_numbers(windows, blend)
    lines, said = notation.target_lines(targets, trajectory.prompt)
    for read in said:
        log.warning(read)
    if trajectory.positive:
        encoded = text_encoder.encode(clip, trajectory.prompt)
        text_encoder.require_encoder_of(trajectory.positive, encoded, trajectory.prompt)
    source = text_encoder.tokenize(clip, trajectory.prompt)
    prompts = [text_encoder.tokenize(clip, line) for line in lines]
    own_windows, word_windows = _windows(options.windows, prompts)
    emphasis = _emphasis(options.emphasis, prompts)
    painted = _painted(mask, len(prompts), trajectory)
    blends, subtracts = _regions(options, source, prompts, painted)
    edits = []
    for i, prompt in enumerate(prompts):
        chosen = mode if mode != "auto" else _fitting_mode(source, prompt)
        alignment = replace(source, prompt) if chosen == "replace" else refine(source, prompt)
        if emphasis[i] is None:
            _warn_of_no_change(i + 1, prompt.text, source.text)
        edits.append(Target(
            prompt.text, chosen, text_encoder.encode(clip, prompt.text), alignment, emphasis[i],
            word_windows[i], blends[i], subtracts[i], own_windows[i], painted[i]))
    return Control(trajectory.prompt, tuple(edits), **windows, blend=blend)


def _require_numbers(windows: dict[str, Window], blend: Blend) -> None:
    """Raise ValueError for a NaN, which no range keeps out."""
    numbers: dict[str, tuple[float, ...]] = {
        name: (window.start, window.end) for name, window in windows.items()}
    numbers |= {f"blend_{name}": (value,) for name, value in vars(blend).items()}
    for name, values in numbers.items():
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name} is {values[-1]}, which is no number; set it between 0 and 1")


def _warn_of_no_change(line: int, target: str, source: str) -> None:
    """Say it where an edit is none: the source prompt itself, or all but for case and signs."""
    if target.split() == source.split():
        log.warning(
            "line %d of targets, '%s', is the source prompt itself, so this edit changes "
            "nothing; change a word, or give one an emphasis", line, target)
    elif "(" not in target + source and _bare_words(target) == _bare_words(source):
        log.warning(
            "line %d of targets, '%s', is the source prompt but for case or punctuation, so this "
            "edit changes next to nothing; change a word, or give one an emphasis", line, target)


def _bare_words(prompt: str) -> list[str]:
    return [bare(word) for word in prompt.split()]


def _painted(mask: Tensor | None, count: int, trajectory: Trajectory) -> list[Tensor | None]:
    """The painted mask of each target at the latent's size, None where nothing is painted.

    Load Image gives a mask of zeros for a picture without one: nothing painted is no mask.
    """
    if mask is None:
        return [None] * count
    fitted = painted_masks(mask, count, *trajectory.latents.shape[-2:])
    painted = [one if one.any() else None for one in fitted]
    if any(one is None for one in painted):
        log.info("nothing is painted in the mask, so it is left out; paint the region")
    return painted


def _fitting_mode(source: TokenizedPrompt, target: TokenizedPrompt) -> str:
    return "replace" if same_word_count(source, target) else "refine"


def _windows(
    written: str, prompts: list[TokenizedPrompt]
) -> tuple[list[dict[str, Window]], list[tuple[WordWindow, ...]]]:
    """For each target the tau windows that were written, and those of single words."""
    taus: list[dict[str, Window]] = [{} for _ in prompts]
    words: list[list[WordWindow]] = [[] for _ in prompts]
    whole = notation.one_line(written)
    for part, group in notation.parts_of(whole, len(prompts), "windows"):
        chosen = [prompts[i] for i in group]
        for name, value in notation.pairs(part, "windows"):
            window = notation.window(value, name)
            name = fold(name) if fold(name) in TAUS else name
            matches = [()] * len(group) if name in TAUS else _somewhere(name, chosen, "windows")
            for i, positions in zip(group, matches, strict=True):
                if name in TAUS:
                    taus[i][name] = window
                elif positions:
                    words[i].append(WordWindow(positions, window))
    return taus, [tuple(matches) for matches in words]


def _emphasis(written: str, prompts: list[TokenizedPrompt]) -> list[Tensor | None]:
    """A factor for each token of each target, None where nothing was asked."""
    factors: list[Tensor | None] = [None for _ in prompts]
    for part, group in notation.parts_of(written, len(prompts), "emphasis"):
        for name, value in notation.pairs(part, "emphasis"):
            number = notation.factor(value, name)
            chosen = [prompts[i] for i in group]
            for i, positions in zip(group, _somewhere(name, chosen, "emphasis"), strict=True):
                if positions:
                    weights = factors[i]
                    weights = torch.ones(len(prompts[i].token_ids)) if weights is None else weights
                    weights[list(positions)] = number
                    factors[i] = weights
    return factors


def _regions(
    options: WordOptions, source: TokenizedPrompt, prompts: list[TokenizedPrompt],
    painted: list[Tensor | None],
) -> tuple[list[WordMasks | None], list[WordMasks | None]]:
    """Blend and subtract words of each target, none where a painted mask stands in for them."""
    blends, subtracts = (
        _word_masks(words, what, source, prompts) for words, what in (
            (options.blend_words, "blend_words"), (options.subtract_words, "subtract_words")))
    if any(subtracts) and not any(blends) and all(mask is None for mask in painted):
        raise ValueError(
            f"subtract_words is '{options.subtract_words}', but blend_words is empty, so there is "
            "no region to take them from; write into blend_words what may change")
    left, right = ([words if mask is None else None for words, mask in zip(
        masks, painted, strict=True)] for masks in (blends, subtracts))
    return left, right


def _word_masks(
    written: str, what: str, source: TokenizedPrompt, prompts: list[TokenizedPrompt]
) -> list[WordMasks | None]:
    """Masks over source and target tokens of the words that were named, None where none was."""
    masks: list[WordMasks | None] = [None for _ in prompts]
    for part, group in notation.parts_of(written, len(prompts), what):
        phrases = notation.phrases(part)
        chosen = [source, *(prompts[i] for i in group)]
        matches = [[_phrase(prompt, phrase) for prompt in chosen] for phrase in phrases]
        for word in (word for phrase in phrases for word in _missing(phrase, chosen)):
            lack = _nowhere(word, chosen, what)
            if not any(map(any, matches)):
                raise ValueError(lack)
            log.warning("the other words of a list do without one: %s", lack)
        for place, i in enumerate(group, start=1):
            if any(row[0] or row[place] for row in matches):
                masks[i] = WordMasks(
                    _mask(source, [row[0] for row in matches]),
                    _mask(prompts[i], [row[place] for row in matches]))
            elif phrases:
                log.warning(
                    "no word of '%s', written in %s, is in '%s' or '%s', so that edit does without "
                    "the list; give each target a list of its own, between semicolons",
                    part.strip(), what, source.text, prompts[i].text)
    return masks


def _phrase(prompt: TokenizedPrompt, phrase: str) -> tuple[int, ...]:
    """Positions of a phrase, or of those of its words that a prompt without it has."""
    whole = positions_of(phrase, prompt)
    return whole or tuple(p for word in phrase.split() for p in positions_of(word, prompt))


def _missing(phrase: str, prompts: list[TokenizedPrompt]) -> list[str]:
    """The words of a phrase that are in none of the prompts; none where the phrase is in one."""
    if any(positions_of(phrase, prompt) for prompt in prompts):
        return []
    return [word for word in phrase.split() if not any(positions_of(word, p) for p in prompts)]


def _somewhere(
    word: str, prompts: list[TokenizedPrompt], what: str
) -> list[tuple[int, ...]]:
    """A word's positions in each prompt; raises ValueError where it is in none of them."""
    matches = [positions_of(word, prompt) for prompt in prompts]
    if not any(matches):
        raise ValueError(_nowhere(word, prompts, what))
    return matches


def _nowhere(word: str, prompts: list[TokenizedPrompt], what: str) -> str:
    """That a word is in none of the prompts, what it may have been, and the words there are."""
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    near = nearest(word, texts)
    places = ", ".join(f"'{place}'" for place in texts)
    hint = f"; did you mean '{near}'? " if near else ". "
    typed = ", ".join(listed(typed.text for prompt in prompts for typed in prompt.words))
    whose = "Its" if len(texts) == 1 else "Their"
    return (f"'{word}', written in {what}, is not in {places}{hint}{whose} words are: {typed}; "
            f"write one of them, or take '{word}' out of {what}")


def _mask(prompt: TokenizedPrompt, matches: list[tuple[int, ...]]) -> Tensor:
    mask = torch.zeros(len(prompt.token_ids))
    for positions in matches:
        mask[list(positions)] = 1
    return mask
