"""Where the demo model is trained, and in what precision: on the accelerator that the host sees."""

from __future__ import annotations

from . import host_path  # isort: skip  # noqa: F401  (before anything that imports comfy)

from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch

DEVICE: torch.device = comfy.model_management.get_torch_device()
ON_CPU = DEVICE.type == "cpu"
FAST_BFLOAT16 = not ON_CPU or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
LAYOUT = torch.channels_last if FAST_BFLOAT16 else torch.contiguous_format


def autocast() -> torch.autocast:
    """bf16 where the device has units for it; elsewhere fp32 is faster."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=FAST_BFLOAT16)


def compiled(module: Any, wanted: bool) -> Callable[..., Any]:
    """The module, compiled where that is wanted; on a CPU it needs a C++ compiler and a minute."""
    return torch.compile(module) if wanted else module
