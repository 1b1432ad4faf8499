"""A safetensors file that is whole or not there."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

PART = ".part"
STALE_SECONDS = 3600


def write_whole(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside a path and rename; what stood there stays until the new file is whole.

    Raises OSError where that cannot be done, and then leaves nothing behind.
    """
    own = {name: tensor.detach().to("cpu", copy=True).contiguous()
           for name, tensor in tensors.items()}
    content = save(own, metadata)
    beside = path.with_name(path.name + PART)
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        with suppress(OSError):  # the reason why it could not be written is the one to hear
            beside.unlink(missing_ok=True)


def remove_stale_parts(folder: Path, ending: str) -> None:
    """Remove what writers of files of this ending left in a folder when they were killed.

    Only what is older than an hour: another server may be writing there.
    """
    with suppress(OSError):
        for path in folder.glob(f"*{ending}{PART}"):
            with suppress(OSError):  # another server may have been faster, or own the file
                if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                    path.unlink()
