"""Where the host works: on the accelerator that its torch sees, or on the CPU."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .places import ROOT, clean_variables

OPTION = "--cpu"  # dev.py's own, and the host's
VARIABLE = "STYLEDIFFUSION_CPU"


def keep_to_cpu() -> None:
    """Have this process and all that it starts from now on work on the CPU."""
    os.environ[VARIABLE] = "1"


def without_option(arguments: Sequence[str]) -> list[str]:
    """The arguments without --cpu, which is obeyed: see keep_to_cpu."""
    if OPTION in arguments:
        keep_to_cpu()
    return [argument for argument in arguments if argument != OPTION]


def host_arguments(python: Path) -> list[str]:
    """What a ComfyUI that this Python runs must be told: --cpu where it is wanted, or all there is.

    Without it the host ends at its start where torch sees no accelerator.
    """
    wanted = os.environ.get(VARIABLE, "") not in ("", "0")
    return [OPTION] if wanted or not _sees_accelerator(python) else []


def accelerated() -> bool:
    """Whether the torch of this process sees an accelerator."""
    import torch

    if hasattr(torch, "accelerator"):
        return torch.accelerator.is_available()
    return torch.cuda.is_available() or torch.backends.mps.is_available()  # before torch 2.6


@functools.cache
def _sees_accelerator(python: Path) -> bool:
    """Asked in a process of its own where it is another Python; no torch there counts as none."""
    if python == Path(sys.executable):
        return accelerated()
    command = [str(python), "-m", "development.device"]
    asked = subprocess.run(
        command, cwd=ROOT, env=clean_variables(), capture_output=True, text=True)
    return asked.stdout.strip() == "True"


if __name__ == "__main__":
    print(accelerated())
