"""Peak memory of one kind of work, in a process of its own.

    python -m bench.memory SHAPE KIND SIDE
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import subjects  # isort: skip  (before anything that imports comfy)

import torch

from stylediffusion.host.learn.memory import peak_bytes

from .editing_step import EditSteps, with_edit_steps
from .learning_step import InnerSteps, with_inner_steps

LEARNING_KINDS = ("forward", "learning", "checkpointed", "textbook")
EDITING_KINDS = ("plain", "replace", "replace+blend", "refine")


def measured(shape: str, kind: str, side: int) -> dict[str, int]:
    """Bytes: of the weights, resident before the work, and at its peak.

    On a CPU of the whole process, before the weights are all in use; on an accelerator of its own
    memory, with the weights in it.
    """
    command = [sys.executable, "-m", "bench.memory", shape, kind, str(side)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak(device: torch.device) -> int | None:
    """The most bytes in use: by this process, on an accelerator since it was reset."""
    if device.type == "cpu":
        return peak_bytes(device)
    backend = getattr(torch, device.type)
    if not hasattr(backend, "max_memory_allocated"):
        raise SystemExit(f"torch keeps no peak of memory on {device.type}: take dev.py bench --cpu")
    most: int = backend.max_memory_allocated(device)
    return most


def main() -> None:
    """Print the measurement as JSON."""
    shape, kind, side = subjects.own_arguments
    subject = subjects.load(shape, int(side))
    device = subject.latent.device
    found = {"weights": subject.model.model_size(), "before": peak(device)}

    def measure(work: Callable[[], Any]) -> None:
        if device.type != "cpu":
            getattr(torch, device.type).reset_peak_memory_stats(device)
            found["before"] = peak(device)
        work()
        found["peak"] = peak(device)

    def edit(steps: EditSteps) -> None:
        measure(steps.plain if kind == "plain" else steps.edited)

    def learn(steps: InnerSteps) -> None:
        made = {"forward": steps.plain, "learning": steps.inner, "textbook": steps.textbook,
                "checkpointed": lambda: steps.inner(checkpoints=True)}[kind]()
        measure(made)

    if kind in EDITING_KINDS:
        with_edit_steps(subject, "replace" if kind == "plain" else kind, edit)
    else:
        with_inner_steps(subject, learn)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
