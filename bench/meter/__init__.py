"""Two nodes for measuring, linked into a server's custom_nodes beside the pack; never shipped.

The meter is a model that counts the rows of every forward and backward pass through it, and notes
when the first and the last ended. It puts nothing around the UNet, as nodes that cache do: of such
the pack tries every step before it learns, which would be counted too.
"""

from __future__ import annotations

import json
import time
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch.nn.modules.module import register_module_forward_hook

MARK = "stylediffusion_bench_counter"


class Counter:
    """What goes through the UNet of a marked model."""

    def __init__(self) -> None:
        self.rows = 0
        self.first = self.last = 0.0

    def count(self, out: Any) -> None:
        """Called at the end of every forward pass, and at the start of every backward pass."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.rows += len(out)


def counted(model: Any) -> tuple[Any, Counter]:
    """A copy of a MODEL, and the counter of what goes through it."""
    clone, counter = model.clone(), Counter()
    clone.model_options["transformer_options"][MARK] = counter
    return clone, counter


def _noted(module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
    if isinstance(module, UNetModel):
        counter = kwargs["transformer_options"].get(MARK)
        if counter is not None:
            counter.count(out)
            if out.requires_grad:
                out.register_hook(counter.count)


register_module_forward_hook(_noted, with_kwargs=True)


class Meter:
    """A model that is measured; another label is another measurement."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "measured", "StyleDiffusion/bench"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "label": ("STRING", {"default": ""})}}

    def measured(self, model: Any, label: str) -> tuple[Any]:
        return (counted(model)[0],)


class Reading:
    """What a meter has counted once something else is done."""

    RETURN_TYPES, FUNCTION, CATEGORY = (), "read", "StyleDiffusion/bench"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "after": ("*",)}}

    def read(self, model: Any, after: Any) -> dict[str, Any]:
        counter = model.model_options["transformer_options"][MARK]
        found = {"rows": counter.rows, "seconds": round(counter.last - counter.first, 3)}
        return {"ui": {"text": [json.dumps(found)]}}


NODE_CLASS_MAPPINGS = {"StyleDiffusionBenchMeter": Meter, "StyleDiffusionBenchReading": Reading}
