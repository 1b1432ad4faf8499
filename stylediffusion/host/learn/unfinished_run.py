"""Where unfinished learning runs rest: in the host's user folder, until done or a week old."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...method.data import Trajectory
from ...method.learning import Learnt, Solver
from ...method.schedule import MAX_STEPS
from ...storage import learning_file
from ...storage.reading import DamagedError
from ..control_nets import control_identity_of

log = logging.getLogger("stylediffusion")
KEPT_SECONDS = 7 * 24 * 3600
ENDING = ".learning.safetensors"
SPARING = 20


@dataclass(frozen=True)
class RunFile:
    """The file of one learning run, the key that says what is learnt in it, and its steps.

    Its methods' `first` [1, C, h, w] is the noise the model finds in the first latent before
    anything is learnt: what other nodes add to the model shows in it, and in no key.
    """

    path: Path
    key: str
    steps: int = MAX_STEPS

    def keep(self, learnt: Learnt, first: Tensor) -> None:
        """Write a run up to a finished step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        learning_file.save(self.path, learnt, self.key, first)

    def begun(self, solver: Solver, first: Tensor) -> Learnt | None:
        """The earlier run to go on from; None where the file is another's or damaged."""
        try:
            learnt = learning_file.load(self.path, self.key, solver.state(), first, self.steps)
        except DamagedError as error:
            log.warning("the unfinished run in %s is damaged (%s), so learning begins anew",
                        self.path, error)
            return None
        if learnt is not None:
            log.info("learning goes on after step %d, where it was stopped", learnt.steps)
        return learnt

    def clear(self) -> None:
        """Called when the run is finished."""
        self.path.unlink(missing_ok=True)


class RunWriter:
    """Keeps a run in its file, writing by the clock: for a twentieth of the time at most.

    A folder that is full or read-only is a warning, once a run: learning needs no file.
    """

    def __init__(self, file: RunFile) -> None:
        self.file, self.warned = file, False
        self.newest: tuple[Learnt, Tensor] | None = None
        self.written, self.took = -math.inf, 0.0

    def keep(self, learnt: Learnt, first: Tensor) -> None:
        """Called after every finished step; writes it unless the last writing is too near."""
        self.newest = learnt, first
        if time.monotonic() - self.written >= SPARING * self.took:
            self.finish()

    def finish(self) -> None:
        """Called where a run breaks off: write what is not yet written."""
        if self.newest is None:
            return
        newest, self.newest, began = self.newest, None, time.monotonic()
        self._try(lambda: self.file.keep(*newest))
        self.written = time.monotonic()
        self.took = self.written - began

    def clear(self) -> None:
        """Called when the run is finished."""
        self._try(self.file.clear)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, SafetensorError, RuntimeError) as error:
            if not self.warned:
                log.warning(
                    "the unfinished run cannot be kept in %s (%s): if learning is stopped, it "
                    "begins anew; free some space, or make the folder writable",
                    self.file.path.parent, error)
            self.warned = True


def run_file(trajectory: Trajectory, image_tokens: Tensor | None, *more: Any) -> RunFile:
    """The file of the run that learns this trajectory with these settings; old files go.

    The key is made of the model's fingerprint, the clean latent, the levels, both prompts, the
    ControlNet with its hint, the image's tokens and whatever else is given.
    """
    digest = hashlib.sha256()
    tensors = [trajectory.latents[:1], trajectory.levels.alphas_cumprod, image_tokens,
               trajectory.positive[0][0], trajectory.negative[0][0]]
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.detach().to("cpu", torch.float32).numpy().tobytes())
    words = (trajectory.fingerprint, trajectory.prompt, trajectory.negative_prompt,
             control_identity_of(trajectory), *more)
    digest.update(repr(words).encode())
    folder = Path(folder_paths.get_user_directory()) / "stylediffusion"
    _remove_old(folder)
    key = digest.hexdigest()
    return RunFile(folder / f"{key[:24]}{ENDING}", key, trajectory.steps)


def _remove_old(folder: Path) -> None:
    with suppress(OSError):  # the folder may be gone meanwhile, or somebody else's
        for path in folder.glob(f"*{ENDING}*"):
            with suppress(OSError):  # another server may have been faster, or own the folder
                if time.time() - path.lstat().st_mtime > KEPT_SECONDS:
                    path.unlink(missing_ok=True)
