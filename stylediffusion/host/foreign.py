"""What other nodes brought to a MODEL, made fit for autograd."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .model import ModelPatcher

PLACES = ("patches", "patches_replace")
READS = {"__get__", "data_ptr", "untyped_storage"}


class NormalTensors(TorchFunctionMode):
    """While active, operations that have gradients get copies of inference tensors.

    Autograd refuses those. What only reads a tensor, its device or its address, gets itself.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch in the operation's place."""
        if torch.is_grad_enabled() and getattr(func, "__name__", "") not in READS:
            args, kwargs = tree_map_only(Tensor, _normal, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def fit_for_autograd(model: ModelPatcher) -> AbstractContextManager[Any]:
    """The context in which a MODEL can be differentiated.

    What another node's patches hold, such as an IP-Adapter's weights and masks, are inference
    tensors. Looking at every operation costs time, so it is done only where there are patches.
    """
    options = model.model_options
    held = [options.get("transformer_options", {}).get(place) for place in PLACES]
    patched = "model_function_wrapper" in options or _filled(model.wrappers) or any(
        _filled(place) for place in held)
    return NormalTensors() if patched else nullcontext()


def _filled(held: Any) -> bool:
    return any(map(_filled, held.values())) if isinstance(held, dict) else bool(held)


def _normal(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
