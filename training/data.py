"""What the demo model's stages share: batches, and a loop that resumes and stops by the clock."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo import drawing, scenes

log = logging.getLogger("training.train")


@dataclass
class Budget:
    """How long a stage may go on, where it keeps its checkpoints, what weights it starts from."""

    folder: Path
    seed: int
    steps: int
    minutes: float
    weights: Path | None = None
    scenes: int = 0

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + 60 * self.minutes

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def save_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside and rename, so that a checkpoint is whole or not there."""
    beside = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, beside, metadata)
    beside.replace(path)


def flatten(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{k}": v for k, v in state.items()}


def unflatten(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {k[len(start):]: v for k, v in tensors.items() if k.startswith(start)}


def adam_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"adam.{i}.{k}": v for i, row in state.items() for k, v in row.items()}


def restore_adam(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    rows: dict[int, dict[str, Tensor]] = {}
    for key, value in unflatten("adam", tensors).items():
        index, name = key.split(".", 1)
        rows.setdefault(int(index), {})[name] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": rows})


def train(
    name: str,
    budget: Budget,
    modules: dict[str, torch.nn.Module],
    learning_rate: float,
    loss_of: Callable[[int], Tensor],
    average_from: int = 0,
    cooldown: float = 0.25,
    report: Callable[[], str] | None = None,
) -> bool:
    """The loop all stages share: AdamW, warm-up, linear cool-down, EMA, checkpoints, wall clock.

    The state at the start of the cool-down is kept as `<name>_trunk`, so that a later run with
    more steps goes on from there. Returns whether all steps are done.
    """
    trained = torch.nn.ModuleDict(modules)
    average = copy.deepcopy(trained).requires_grad_(False)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=learning_rate, betas=(0.9, 0.99),
                                  weight_decay=0.01)
    cooling_start = round(budget.steps * (1 - cooldown))
    step = _resume(name, budget, trained, average, optimizer, cooling_start)
    saved, shown = time.monotonic(), time.monotonic()
    running: Tensor | None = None
    while step < budget.steps and time.monotonic() < budget.deadline:
        if step == cooling_start:
            _save(f"{name}_trunk", budget, trained, average, optimizer, step)
        share = min(1.0, (step + 1) / 200)
        share *= min(1.0, (budget.steps - step) / max(1, budget.steps - cooling_start))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share
        torch.manual_seed(budget.seed * 1_000_003 + step)
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_([*average.parameters()], [*trained.parameters()], 1 - decay)
            running = loss.detach() if running is None else running.lerp(loss.detach(), 0.02)
        now = time.monotonic()
        if now - shown > 30:
            log.info("%s step %d of %d, loss %.4f", name, step, budget.steps, running)
            shown = now
        if now - saved > 300:
            _save(name, budget, trained, average, optimizer, step)
            saved = now
            if report:
                log.info("%s: %s", name, report())
    _save(name, budget, trained, average, optimizer, step)
    log.info("%s at step %d of %d, loss %.4f", name, step, budget.steps,
             math.nan if running is None else running)
    return step >= budget.steps


def _save(
    name: str,
    budget: Budget,
    trained: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    tensors = {**flatten("model", trained.state_dict()), **flatten("ema", average.state_dict()),
               **adam_tensors(optimizer)}
    save_checkpoint(budget.file(name), tensors, {"step": str(step), "steps": str(budget.steps)})


def _resume(
    name: str,
    budget: Budget,
    trained: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    cooling_start: int,
) -> int:
    for candidate in (name, f"{name}_trunk"):
        path = budget.file(candidate)
        if not path.exists():
            continue
        step, steps = checkpoint_steps(path)
        planned = round(steps * cooling_start / max(1, budget.steps))
        if candidate == name and steps != budget.steps and step > planned:
            continue
        tensors = load_file(path)
        trained.load_state_dict(unflatten("model", tensors))
        average.load_state_dict(unflatten("ema", tensors))
        restore_adam(optimizer, tensors)
        log.info("%s resumes at step %d from %s", name, step, path.name)
        return step
    return 0


def checkpoint_steps(path: Path) -> tuple[int, int]:
    """(steps done, steps planned) of a checkpoint."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), int(metadata["steps"])


def begin(budget: Budget, module: Any, prefix: str, **more: Tensor) -> None:
    """Where the run starts from an exported model, fill a module with its part of it."""
    if budget.weights is not None:
        state = unflatten(prefix, load_file(budget.weights))
        module.load_state_dict({k: v.float() for k, v in {**state, **more}.items()}, strict=False)


def averaged(name: str, budget: Budget, part: str, module: torch.nn.Module) -> Any:
    """Load one module's EMA weights from a stage's checkpoint."""
    tensors = unflatten(f"ema.{part}", load_file(budget.file(name)))
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def pixels(drawn: list[scenes.Scene]) -> Tensor:
    """Pictures of scenes as [B, 3, 128, 128] in 0..1."""
    stack = np.stack([np.asarray(drawing.draw(s)) for s in drawn])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def trained(
    budget: Budget, stage: str, part: str, module: Any, prefix: str, **more: Tensor
) -> Any:
    """A module with a stage's EMA weights; of a stage not run here, with those of the export."""
    if budget.file(stage).exists():
        return averaged(stage, budget, part, module)
    if budget.weights is None:
        raise FileNotFoundError(
            f"there is no checkpoint of stage '{stage}' in {budget.folder}; run it, or name an "
            "exported model with --weights")
    begin(budget, module, prefix, **more)
    return module.eval().requires_grad_(False)


def take(source: Iterator[scenes.Scene], count: int) -> list[scenes.Scene]:
    """The next scenes of an endless source."""
    return [next(source) for _ in range(count)]
