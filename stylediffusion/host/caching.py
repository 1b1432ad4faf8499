"""Whether the MODEL is asked at every step: nodes that cache, as EasyCache, leave some out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ..method.data import relative_difference
from .attention import COMPILE_KEY, uncompiled
from .model import ModelPatcher, nodes_on

SAME = 0.01
INNERMOST = "stylediffusion.asked"
REMEDY = ("connect the MODEL from before that node to DDIM Invert and to the node that learns; "
          "sampling alone may cache")


class Asked:
    """Counts how often the UNet itself is run under `options`, inside all other nodes' wrappers."""

    def __init__(self, model_options: dict[str, Any]) -> None:
        self.count = 0
        self.options = uncompiled(model_options)  # compiled code would count only once
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, INNERMOST, self._counted, self.options,
                             is_model_options=True)

    def _counted(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return executor(*args, **kwargs)

    @contextmanager
    def at(self, model: ModelPatcher, level: int, steps: int) -> Iterator[None]:
        """Raise ValueError naming the nodes on a MODEL where it is not asked meanwhile."""
        before = self.count
        yield
        if self.count == before:
            raise ValueError(
                f"another node answers for this MODEL at level {level} of {steps} with what it "
                f"kept from another step (on it are nodes of {', '.join(nodes_on(model))}), so the "
                f"walk would not be the picture's; {REMEDY}")


def may_cache(model: ModelPatcher) -> bool:
    """Whether any node stands around the whole UNet, and could answer in its place."""
    wrapped = any(wrappers and key != COMPILE_KEY for by_key in model.wrappers.values()
                  for key, wrappers in by_key.items())
    return wrapped or "model_function_wrapper" in model.model_options


Ask = Callable[[int, dict[str, Any]], Tensor]


def require_every_step(
    model: ModelPatcher, model_options: dict[str, Any], steps: int, ask: Ask
) -> None:
    """Raise ValueError where a node leaves steps of sampling out, or answers from earlier ones.

    Tried, where a node could do so, as sampling goes: `ask` gives the guided noise at a level under
    some options. Each time must run the UNet, and the middle level give what it gave at first.
    """
    if not may_cache(model):
        return
    asked, middle = Asked(model_options), (steps + 1) // 2
    first = last = ask(middle, asked.options)
    for level in (*range(steps, 0, -1), middle, middle):
        with asked.at(model, level, steps):
            last = ask(level, asked.options)
    off = relative_difference(last, first)
    if off > SAME:
        raise ValueError(
            f"what this MODEL gives depends on what it was asked before (by {100 * off:.0f} % of a "
            f"step): another node keeps something from step to step (on it are nodes of "
            f"{', '.join(nodes_on(model))}); {REMEDY}")
