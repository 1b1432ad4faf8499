"""Peak memory of one kind of work, in a process of its own.

    python -m bench.memory SHAPE KIND SIDE
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LEARNING_KINDS = ("forward", "learning", "checkpointed", "textbook")
EDITING_KINDS = ("plain", "replace", "replace+blend", "refine")


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

    from .editing_step import EditSteps, with_edit_steps
    from .learning_step import InnerSteps, with_inner_steps

    shape, kind, side = subjects.own_arguments
    subject = subjects.load(shape, int(side))
    cpu = torch.device("cpu")
    found = {"weights": subject.model.model_size(), "before": peak_bytes(cpu)}

    def edit(steps: EditSteps) -> None:
        (steps.plain if kind == "plain" else steps.edited)()
        found["peak"] = peak_bytes(cpu)

    def learn(steps: InnerSteps) -> None:
        made = {"forward": steps.plain, "learning": steps.inner, "textbook": steps.textbook,
                "checkpointed": lambda: steps.inner(checkpoints=True)}[kind]()
        made()
        found["peak"] = peak_bytes(cpu)

    if kind in EDITING_KINDS:
        with_edit_steps(subject, "replace" if kind == "plain" else kind, edit)
    else:
        with_inner_steps(subject, learn)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
