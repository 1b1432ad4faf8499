"""The bytes of tensors that live while some work is done, and the most that lived at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """While active, notes the storage of every result, and when it is freed.

    What PyTorch holds inside one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.bytes = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        mine = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        given = {leaf.untyped_storage() for leaf in mine}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage() not in given:
                self._born(leaf.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._freed, size)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _freed(self, size: int) -> None:
        self.bytes -= size
