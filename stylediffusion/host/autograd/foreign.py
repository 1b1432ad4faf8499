"""What other nodes brought to a MODEL, made fit for autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map, tree_map_only

from ..control_nets import with_copied_skips
from ..model import ModelPatcher

Patch = Callable[..., Any]

PLACES = ("patches", "patches_replace")
FORKED = ("cuda", "xpu")
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
    wrapped = "model_function_wrapper" in model.model_options or _filled(model.wrappers)
    return NormalTensors() if wrapped or model.injections or _patched(model) else nullcontext()


def with_writes_in_place(model: ModelPatcher, options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which another node's patches may write into what autograd keeps.

    FreeU's does so. Skip connections are copied before the next block keeps them, and what a patch
    has kept itself is a copy. Options of a MODEL without patches are left as they are.
    """
    if not _patched(model):
        return options
    options = with_copied_skips(options)
    inner = dict(options["transformer_options"])
    for place in PLACES:
        inner[place] = tree_map(_keeping_copies_if_called, inner.get(place, {}))
    return {**options, "transformer_options": inner}


def with_same_draws(model: ModelPatcher, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which patches that draw, as token merging's, draw the same every time.

    So what is learnt of a level is a function. What is drawn outside stays as it was.
    """
    return _same_draws(device) if _patched(model) else nullcontext()


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    forked = [device] if device.type in FORKED else []
    with torch.random.fork_rng(forked, device_type=device.type if forked else "cuda"):
        torch.manual_seed(0)
        yield


class _Kept(torch.autograd.Function):
    """A node that keeps one tensor; its output leads nowhere."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tensor: Tensor) -> Tensor:
        ctx.save_for_backward(tensor)
        return anchor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


def keeping_copies(patch: Patch) -> Patch:
    """A patch that may write into what autograd keeps of it: what is kept are copies.

    Each copy is kept again outside the patch, so that checkpoints around it see it.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        copies: list[Tensor] = []
        nodes: list[Any] = []

        def pack(tensor: Tensor) -> int:
            copies.append(tensor.detach().clone())
            return len(copies) - 1

        def unpack(place: int) -> Tensor:
            tensor: Tensor
            (tensor,) = nodes[place].saved_tensors
            return tensor

        with saved_tensors_hooks(pack, unpack):
            out = patch(*args, **kwargs)
        with torch.enable_grad():
            anchor = torch.zeros((), requires_grad=True)
            nodes.extend(_Kept.apply(anchor, copy).grad_fn for copy in copies)
        return out

    return run


def _keeping_copies_if_called(held: Any) -> Any:
    return keeping_copies(held) if callable(held) and not isinstance(held, type) else held


def _patched(model: ModelPatcher) -> bool:
    options = model.model_options.get("transformer_options", {})
    return any(_filled(options.get(place)) for place in PLACES)


def _filled(held: Any) -> bool:
    return any(map(_filled, held.values())) if isinstance(held, dict) else bool(held)


def _normal(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
