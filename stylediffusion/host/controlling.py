"""From words to a CONTROL: target prompts through the host's tokenizer and text encoder."""

from __future__ import annotations

import logging
from typing import Any

from ..alignment import Alignment, TokenizedPrompt, refine, replace, same_word_count
from ..artifacts import Trajectory
from ..control import Control, Target, Window
from . import text

log = logging.getLogger("stylediffusion")
MODES = ("auto", "replace", "refine")


def make_control(
    clip: Any, trajectory: Trajectory, targets: str, mode: str, windows: dict[str, Window]
) -> Control:
    """A CONTROL for target prompts, one a line; `windows` holds tau_v, tau_c, tau_s and tau_u.

    Raises ValueError naming the line where a target is empty or does not fit the mode.
    """
    lines = targets.strip().splitlines()
    if not lines:
        raise ValueError("targets is empty; write the edited prompt, one edit a line")
    source = text.tokenize(clip, trajectory.prompt)
    made = tuple(_target(clip, source, line.strip(), i + 1, mode) for i, line in enumerate(lines))
    return Control(trajectory.prompt, made, **windows)


def _target(clip: Any, source: TokenizedPrompt, prompt: str, line: int, mode: str) -> Target:
    if not prompt:
        raise ValueError(f"line {line} of targets is empty; remove it or write a prompt")
    if prompt == source.text:
        log.warning(
            "line %d of targets, '%s', is the source prompt itself, so this edit changes nothing; "
            "change a word", line, prompt,
        )
    target = text.tokenize(clip, prompt)
    if mode == "auto":
        mode = "replace" if same_word_count(source, target) else "refine"
    alignment: Alignment = replace(source, target) if mode == "replace" else refine(source, target)
    return Target(prompt, mode, text.encode(clip, prompt), alignment)
