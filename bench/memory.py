"""Peak memory of one kind of work, in a process of its own.

    python -m bench.memory SHAPE forward|learning|checkpointed|textbook [SIDE]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KINDS = ("forward", "learning", "checkpointed", "textbook")


def measured(shape: str, kind: str, side: int) -> dict[str, int]:
    """Bytes: of the weights, resident before the work, and at its peak."""
    command = [sys.executable, "-m", "bench.memory", shape, kind, str(side)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the measurement as JSON."""
    import torch

    from . import subjects  # isort: skip  (before anything that imports comfy)

    from stylediffusion.host.memory import peak_bytes

    from .learning_step import InnerSteps, with_inner_steps

    shape, kind, side = subjects.own_arguments
    subject = subjects.load(shape, int(side))
    cpu = torch.device("cpu")
    found = {"weights": subject.model.model_size(), "before": peak_bytes(cpu)}

    def work(steps: InnerSteps) -> None:
        made = {"forward": steps.plain, "learning": steps.inner, "textbook": steps.textbook,
                "checkpointed": lambda: steps.inner(checkpoints=True)}[kind]()
        made()
        found["peak"] = peak_bytes(cpu)

    with_inner_steps(subject, work)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
