"""The one reader of the pack's files: whole, unchanged, and of the forms they were written in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..method.data import InnerLoss
from .writing import CHECKSUM, checksum

Metadata = dict[str, str]


class DamagedError(ValueError):
    """A file that is cut short, or holds something else than was written into it."""


def read_whole(
    path: Path, require_own: Callable[[Metadata], None]
) -> tuple[Metadata, dict[str, Tensor]]:
    """Metadata and tensors of a file that `write_whole` wrote, the tensors as copies.

    `require_own` raises for the metadata of a file that is another's, before any tensor is read.
    Raises DamagedError for what is no safetensors file, or was changed after it was written; a
    file without a checksum, as the first version of the pack wrote them, is taken as it is.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata: Metadata = file.metadata() or {}
            require_own(metadata)
            # Copies: sums over a mapped file's unaligned memory round otherwise than before.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"cannot be read as a safetensors file ({error})") from error
    said = {name: value for name, value in metadata.items() if name != CHECKSUM}
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(tensors, said):
        raise DamagedError("holds something else than was written: its checksum differs")
    return said, tensors


def checked(
    tensors: dict[str, Tensor], name: str, shape: tuple[int | None, ...],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A tensor of this shape (None: any size) and dtype, every number of it finite.

    Raises DamagedError for any other, and where there is none of that name.
    """
    require(name in tensors, f"there is no {name}")
    tensor = tensors[name]
    fits = tensor.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=False))
    require(fits, f"{name} has shape {tuple(tensor.shape)}")
    require(tensor.dtype == dtype, f"{name} is {tensor.dtype}")
    require(bool(torch.isfinite(tensor).all()), f"{name} has values that are not finite")
    return tensor


def losses_of(tensors: dict[str, Tensor], name: str, steps: int) -> list[InnerLoss]:
    """What `losses_table` packed; raises DamagedError for what no run of so many steps has."""
    table = checked(tensors, name, (None, 4), torch.float64)
    counts = table[:, :2]
    whole = bool((counts == counts.floor()).all()) and bool((counts >= 0).all())
    require(whole and bool((counts[:, 0] < steps).all()), f"{name} counts no steps of {steps}")
    return [InnerLoss(int(s), int(j), z, a) for s, j, z, a in table.tolist()]


def require(holds: bool, otherwise: str) -> None:
    """Raise DamagedError with what is wrong unless something holds."""
    if not holds:
        raise DamagedError(otherwise)
