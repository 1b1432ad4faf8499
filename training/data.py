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
COOLDOWN = 0.85
HIDDEN = 32


@dataclass
class Budget:
    """How long and how a stage goes on, where its checkpoints are, what weights it starts from."""

    folder: Path
    seed: int
    steps: int
    minutes: float
    weights: Path | None = None
    scenes: int = 0
    compiled: bool = False

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


class Training:
    """A stage's modules with their averages and optimizers, at some step; in checkpoints whole.

    Muon learns what lies between features and features, in far fewer steps than AdamW, which
    learns the rest: tables, norms, biases and the layers next to pixels, latents and answers.
    """

    def __init__(
        self, name: str, budget: Budget, modules: dict[str, torch.nn.Module], learning_rate: float,
        cooling_start: int,
    ) -> None:
        self.name, self.budget, self.cooling_start = name, budget, cooling_start
        self.modules = torch.nn.ModuleDict(modules)
        self.average = copy.deepcopy(self.modules).requires_grad_(False)
        self.learning_rate = learning_rate
        self.hidden = hidden_weights(self.modules)
        self.matrices = [as_matrix(weight.detach(), weight) for weight in self.hidden]
        others = [p for p in self.modules.parameters() if all(p is not h for h in self.hidden)]
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adam": torch.optim.AdamW(
            others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)}
        if self.matrices:
            self.optimizers["muon"] = torch.optim.Muon(
                self.matrices, lr=learning_rate, weight_decay=0.01,
                adjust_lr_fn="match_rms_adamw")
        self.step = self._resumed()

    def update(self, loss_of: Callable[[int], Tensor]) -> Tensor:
        """One step: warm-up of 200 steps, linear cool-down, clipped gradients, EMA; its loss."""
        torch.manual_seed(self.budget.seed * 1_000_003 + self.step)
        loss = loss_of(self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        for matrix, weight in zip(self.matrices, self.hidden, strict=True):
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad, weight)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
            optimizer.step()
        self.modules.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(0.999, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                [*self.average.parameters()], [*self.modules.parameters()], 1 - decay)
        return loss.detach()

    def _rate(self) -> float:
        steps = self.budget.steps
        cooling = min(1.0, (steps - self.step) / max(1, steps - self.cooling_start))
        return self.learning_rate * min(1.0, (self.step + 1) / 200) * cooling

    def save(self, name: str = "") -> None:
        """A checkpoint under the stage's name, or another."""
        tensors = {
            **flatten("model", self.modules.state_dict()),
            **flatten("ema", self.average.state_dict())}
        for kind, optimizer in self.optimizers.items():
            for index, row in optimizer.state_dict()["state"].items():
                tensors |= flatten(f"{kind}.{index}", row)
        save_checkpoint(self.budget.file(name or self.name), tensors,
                        {"step": str(self.step), "steps": str(self.budget.steps)})

    def _resumed(self) -> int:
        """The step of the checkpoint that is gone on from, of the stage or of its trunk."""
        for name in (self.name, f"{self.name}_trunk"):
            path = self.budget.file(name)
            if not path.exists():
                continue
            step, steps = checkpoint_steps(path)
            planned = round(steps * self.cooling_start / max(1, self.budget.steps))
            if name == self.name and steps != self.budget.steps and step > planned:
                continue
            self._load(load_file(path))
            log.info("%s resumes at step %d from %s", self.name, step, path.name)
            return step
        return 0

    def _load(self, tensors: dict[str, Tensor]) -> None:
        self.modules.load_state_dict(unflatten("model", tensors))
        self.average.load_state_dict(unflatten("ema", tensors))
        for kind, optimizer in self.optimizers.items():
            rows: dict[int, dict[str, Tensor]] = {}
            for key, value in unflatten(kind, tensors).items():
                index, name = key.split(".", 1)
                rows.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": rows})


def hidden_weights(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights between features and features: wide on both sides, and of no table."""
    return [weight for part in module.modules() if not isinstance(part, torch.nn.Embedding)
            for weight in part.parameters(recurse=False)
            if weight.ndim > 1 and min(weight.shape[:2]) >= HIDDEN]


def as_matrix(tensor: Tensor, weight: Tensor) -> Tensor:
    """[out, rest] of a weight [out, in, ...] or its gradient; a view of what lies as the weight."""
    strides = weight.stride()
    order = sorted(range(1, weight.ndim), key=lambda side: -strides[side])
    return tensor.permute(0, *order).flatten(1)


def train(
    name: str, budget: Budget, modules: dict[str, torch.nn.Module], learning_rate: float,
    loss_of: Callable[[int], Tensor], report: Callable[[], str] | None = None,
) -> bool:
    """The loop all stages share, by the wall clock.

    The state at the start of the cool-down is kept as `<name>_trunk`, so that a later run with
    more steps goes on from there. Returns whether all steps are done.
    """
    training = Training(
        name, budget, modules, learning_rate, round(budget.steps * (1 - COOLDOWN)))
    saved, shown = time.monotonic(), time.monotonic()
    running: Tensor | None = None  # read for the log only: a GPU need not be waited for
    while training.step < budget.steps and time.monotonic() < budget.deadline:
        if training.step == training.cooling_start:
            training.save(f"{name}_trunk")
        loss = training.update(loss_of)
        running = loss if running is None else running.lerp(loss, 0.02)
        now = time.monotonic()
        if now - shown > 30:
            log.info("%s step %d of %d, loss %.4f", name, training.step, budget.steps, running)
            shown = now
        if now - saved > 300:
            training.save()
            saved = now
            if report:
                log.info("%s: %s", name, report())
    training.save()
    log.info("%s at step %d of %d, loss %.4f", name, training.step, budget.steps,
             math.nan if running is None else running)
    return training.step >= budget.steps


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


@torch.no_grad()
def fidelity(round_trip: Callable[[Tensor], Tensor], seed: int, count: int) -> dict[str, float]:
    """Mean PSNR in dB of what pictures [B, 3, 128, 128] come back as, unseen scenes, by style."""
    decibels = {}
    for style in scenes.STYLES:
        source = (s for s in scenes.random_scenes(seed, unseen=True) if s.style == style)
        images = pixels(take(source, count))
        error = (round_trip(images).cpu().clamp(0, 1) - images).square().flatten(1).mean(1)
        decibels[style] = round(float((-10 * error.log10()).mean()), 2)
    return decibels
