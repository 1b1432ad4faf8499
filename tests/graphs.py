"""The shipped graph, changed for a test, and what the host had kept of it."""

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


def cached_nodes(entry: dict[str, Any]) -> set[str]:
    """The ids of the nodes a finished prompt took from the host's cache."""
    messages = dict(entry["status"]["messages"])
    return set(messages.get("execution_cached", {}).get("nodes", []))
