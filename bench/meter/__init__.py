"""Two nodes for measuring, linked into a server's custom_nodes beside the pack; never shipped.

The meter is a model that counts the rows of every forward and backward pass through it, and notes
when the first began and the last ended.
"""

from __future__ import annotations

import json
import time
from typing import Any


class Counter:
    """The host's wrapper around a UNet's call."""

    def __init__(self) -> None:
        self.rows = 0
        self.first = self.last = 0.0

    def __call__(self, apply_model: Any, asked: dict[str, Any]) -> Any:
        self.first = self.first or time.perf_counter()
        self.rows += len(asked["input"])
        out = apply_model(asked["input"], asked["timestep"], **asked["c"])
        if out.requires_grad:
            out.register_hook(self.backward)
        self.last = time.perf_counter()
        return out

    def backward(self, gradient: Any) -> None:
        """Called at the start of every backward pass."""
        self.rows += len(gradient)
        self.last = time.perf_counter()


class Meter:
    """A model that is measured; another label is another measurement."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "measured", "StyleDiffusion/bench"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "label": ("STRING", {"default": ""})}}

    def measured(self, model: Any, label: str) -> tuple[Any]:
        clone = model.clone()
        clone.set_model_unet_function_wrapper(Counter())
        return (clone,)


class Reading:
    """What a meter has counted once something else is done."""

    RETURN_TYPES, FUNCTION, CATEGORY = (), "read", "StyleDiffusion/bench"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "after": ("*",)}}

    def read(self, model: Any, after: Any) -> dict[str, Any]:
        counter = model.model_options["model_function_wrapper"]
        found = {"rows": counter.rows, "seconds": round(counter.last - counter.first, 3)}
        return {"ui": {"text": [json.dumps(found)]}}


NODE_CLASS_MAPPINGS = {"StyleDiffusionBenchMeter": Meter, "StyleDiffusionBenchReading": Reading}
