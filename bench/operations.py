"""Counts what a GPU would wait for: operations that launch a kernel, and reads by the host.

At small batches a GPU waits for Python, so that its time follows the number of operations and not
their size; and every read (`.item()`, `bool(tensor)`, `nonzero`, `equal`) makes Python wait for all
that was launched. Both can be counted on any device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique2"}
COPIES = {"cpu", "tolist"}  # numpy() takes what lies on the CPU already
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach",
             "alias", "lift_fresh", "_unsafe_view", "set_"}


@dataclass(frozen=True)
class Count:
    """Operations that are no views, and host reads."""

    operations: float = 0
    reads: float = 0

    def __sub__(self, other: Count) -> Count:
        return Count(self.operations - other.operations, self.reads - other.reads)

    def __truediv__(self, by: float) -> Count:
        return Count(self.operations / by, self.reads / by)


class Operations:
    """While active, counts; `kinds` says how often each operation was seen."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.reads = 0
        self._stack = ExitStack()

    def __enter__(self) -> Operations:
        self._stack.enter_context(_Dispatched(self))
        self._stack.enter_context(_Called(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def count(self) -> Count:
        """What was seen so far."""
        return Count(self.kinds.total(), self.reads)

    def read(self, tensor: Any) -> None:
        """Note a read; fp64 coefficients and the bytes of a file lie on the CPU everywhere."""
        self.reads += tensor.dtype not in (torch.float64, torch.uint8)


class _Dispatched(TorchDispatchMode):
    def __init__(self, seen: Operations) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name.split("::")[-1]
        if name in READS:
            self.seen.read(args[0])
        elif name not in NO_KERNEL and not _is_view(func):
            self.seen.kinds[name] += 1
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    """Sees copies to the CPU that are asked for, which on a CPU are no operation."""

    def __init__(self, seen: Operations) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in COPIES:
            self.seen.read(args[0])
        return func(*args, **(kwargs or {}))


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(
        value.alias_info is not None and not value.alias_info.is_write for value in returns)


def counted(work: Callable[[], Any]) -> Count:
    """What one call of work does."""
    with Operations() as seen, torch.no_grad():
        work()
    return seen.count


def by_step(sample: Callable[[Callable[..., None]], Any]) -> list[Count]:
    """What each sampling step but the last does, between two calls of the sampler's callback."""
    marks: list[Count] = []
    with Operations() as seen:
        sample(lambda *_: marks.append(seen.count))
    return [after - before for before, after in zip(marks, marks[1:], strict=False)]
