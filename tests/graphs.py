"""The shipped graph, changed for a test."""

import copy
from typing import Any

from development import examples
from development.examples import Prompt

PREFIX = "StyleDiffusion"
INVERT, LEARN, CONTROL, SAMPLE = (
    PREFIX + name for name in ("DDIMInvert", "LearnValueEmbedding", "P2PlusController", "Sample"))


def changed(prompt: Prompt, kind: str, /, **inputs: Any) -> Prompt:
    copied = copy.deepcopy(prompt)
    copied[examples.node_of(copied, kind)]["inputs"].update(inputs)
    return copied


def short(prompt: Prompt) -> Prompt:
    """The same graph in a few seconds, up to its pictures."""
    prompt = examples.leading_to(prompt, "SaveImage")
    return changed(changed(prompt, INVERT, steps=5), LEARN, inner_steps=2)
