"""A learning run up to its last finished step, in a safetensors file, for a later run to go on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..method.data import relative_difference
from ..method.learning import Learnt
from ..method.value_embedding import CHUNK_TOKENS
from .reading import Metadata, checked, losses_of, read_whole, require
from .writing import CHECKSUM, losses_table, write_whole

FORMAT = "stylediffusion learning"
SOLVER = "solver."
SAME_FIRST = 5e-3


class OtherRunError(ValueError):
    """A whole file, but of another run."""


def save(path: Path, learnt: Learnt, key: str, first: Tensor) -> None:
    """Write beside and rename, so that a file is whole or not there; `key` says what was learnt.

    `first` [1, C, h, w] is the noise found in the first latent before anything was learnt.
    """
    tensors = {
        "scale": learnt.scale, "shift": learnt.shift, "latent": learnt.latent,
        "first": first, "losses": losses_table(learnt.losses),
        **{SOLVER + name: tensor for name, tensor in learnt.solver.items()},
    }
    write_whole(path, tensors, {"format": FORMAT, "key": key})


def load(
    path: Path, key: str, like: dict[str, Tensor], first: Tensor, steps: int
) -> Learnt | None:
    """What `save` wrote under the same key; None for other runs, or another first noise.

    `like` is the state of the solver that will go on: names and shapes must be its; `steps` is the
    most there can be. Another first noise means another trajectory, or that other nodes added
    something else to the model; a rounding that differs from run to run does not. Raises
    DamagedError for a file that was cut short or changed.
    """

    def require_own(metadata: Metadata) -> None:
        if {**metadata, CHECKSUM: ""} != {"format": FORMAT, "key": key, CHECKSUM: ""}:
            raise OtherRunError
        require(CHECKSUM in metadata, "it has no checksum")

    try:
        _, tensors = read_whole(path, require_own)
    except OtherRunError:
        return None
    learnt = _learnt(tensors, steps)
    fits = all(name in learnt.solver and learnt.solver[name].shape == wanted.shape
               for name, wanted in like.items())
    return learnt if fits and _same_first(tensors, first) else None


def _learnt(tensors: dict[str, Tensor], steps: int) -> Learnt:
    scale = checked(tensors, "scale", (None, CHUNK_TOKENS, None))
    require(0 < len(scale) <= steps, f"it has {len(scale)} steps of {steps}")
    solver = {name.removeprefix(SOLVER): tensor for name, tensor in tensors.items()
              if name.startswith(SOLVER)}
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in solver.values())
    require(finite, "its solver is not finite")
    return Learnt(
        scale, checked(tensors, "shift", tuple(scale.shape)),
        checked(tensors, "latent", (1, None, None, None)),
        losses_of(tensors, "losses", len(scale)), solver)


def _same_first(tensors: dict[str, Tensor], first: Tensor) -> bool:
    saved = checked(tensors, "first", (1, None, None, None))
    if not tensors["latent"].shape == saved.shape == first.shape:
        return False
    return relative_difference(first.to("cpu", torch.float32), saved) <= SAME_FIRST
