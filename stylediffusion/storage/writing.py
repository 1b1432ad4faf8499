"""A safetensors file that is whole or not there."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..method.learning import InnerLoss

PART = ".part"
CHECKSUM = "checksum"
STALE_SECONDS = 3600


def write_whole(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside a path and rename; what stood there stays until the new file is whole.

    A checksum of everything stands among the metadata, for `reading.read_whole`. Raises OSError
    where that cannot be done, and then leaves nothing behind.
    """
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous()
           for name, tensor in tensors.items()}
    content = save(copies, {**metadata, CHECKSUM: checksum(copies, metadata)})
    beside = path.with_name(path.name + PART)
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        with suppress(OSError):  # the reason why it could not be written is the one to tell
            beside.unlink()


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Eight hex digits of all names, shapes, types, bytes and metadata: shows damage, no intent."""
    digest = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest = zlib.crc32(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), digest)
        digest = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, digest)
    return f"{digest:08x}"


def losses_table(losses: Iterable[InnerLoss]) -> Tensor:
    """Losses as fp64 [n, 4], as they stand in files; `reading.losses_of` unpacks them."""
    rows = [[x.step, x.inner, x.latent, x.attention] for x in losses]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def remove_stale_parts(folder: Path, ending: str) -> None:
    """Remove what writers of files of this ending left in a folder when they were killed.

    Only what is older than an hour: another server may be writing there.
    """
    with suppress(OSError):
        for path in folder.glob(f"*{ending}{PART}"):
            with suppress(OSError):  # another server may have been faster, or own the file
                if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                    path.unlink()
