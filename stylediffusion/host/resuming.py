"""Where unfinished learning runs rest: in the host's user folder, until done or a week old."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from .. import unfinished
from ..artifacts import Trajectory
from ..learning import Learnt, Solver
from .control_nets import control_net_of, identity

log = logging.getLogger("stylediffusion")
KEPT_SECONDS = 7 * 24 * 3600
ENDING = ".learning.safetensors"


@dataclass(frozen=True)
class RestingPlace:
    """The file of one learning run, and the key that says what is learnt in it.

    Its methods' `first` [1, C, h, w] is the noise the model finds in the first latent before
    anything is learnt: what other nodes add to the model shows in it, and in no key.
    """

    path: Path
    key: str

    def keep(self, learnt: Learnt, first: Tensor) -> None:
        """Called after every finished step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.save(self.path, learnt, self.key, first)

    def begun(self, solver: Solver, first: Tensor) -> Learnt | None:
        """The earlier run to go on from; None where the file is another's or damaged."""
        learnt = unfinished.load(self.path, self.key, solver.state(), first)
        if learnt is not None:
            log.info("learning goes on after step %d, where it was stopped", learnt.steps)
        return learnt

    def clear(self) -> None:
        """Called when the run is finished."""
        self.path.unlink(missing_ok=True)


def resting_place(trajectory: Trajectory, image_tokens: Tensor | None, *more: Any) -> RestingPlace:
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
             identity(control_net_of(trajectory.positive)), *more)
    digest.update(repr(words).encode())
    folder = Path(folder_paths.get_user_directory()) / "stylediffusion"
    _remove_old(folder)
    key = digest.hexdigest()
    return RestingPlace(folder / f"{key[:24]}{ENDING}", key)


def _remove_old(folder: Path) -> None:
    for path in folder.glob(f"*{ENDING}*"):
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            path.unlink(missing_ok=True)
