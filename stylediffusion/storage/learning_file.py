"""A learning run up to its last finished step, in a safetensors file, for a later run to go on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..method.data import InnerLoss
from ..method.learning import Learnt
from ..method.value_embedding import CHUNK_TOKENS
from .writing import write_whole

FORMAT = "stylediffusion learning"
SOLVER = "solver."
SAME_FIRST = 5e-3


def save(path: Path, learnt: Learnt, key: str, first: Tensor) -> None:
    """Write beside and rename, so that a file is whole or not there; `key` says what was learnt.

    `first` [1, C, h, w] is the noise found in the first latent before anything was learnt.
    """
    losses = [[x.step, x.inner, x.latent, x.attention] for x in learnt.losses]
    tensors = {
        "scale": learnt.scale, "shift": learnt.shift, "latent": learnt.latent,
        "first": first,
        "losses": torch.tensor(losses, dtype=torch.float64).reshape(-1, 4),
        **{SOLVER + name: tensor for name, tensor in learnt.solver.items()},
    }
    write_whole(path, tensors, {"format": FORMAT, "key": key})


def load(path: Path, key: str, like: dict[str, Tensor], first: Tensor) -> Learnt | None:
    """What `save` wrote under the same key; None for every other file, or another first noise.

    `like` is the state of the solver that will go on: names and shapes must be its. Another first
    noise means another trajectory, or that other nodes added something else to the model; a
    rounding that differs from run to run does not.
    """
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != {"format": FORMAT, "key": key}:
                return None
            # Copies: sums over a mapped file's unaligned memory round otherwise than before.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    solver = {k[len(SOLVER):]: v for k, v in tensors.items() if k.startswith(SOLVER)}
    if not _is_whole(tensors) or not _same_first(tensors, first) or any(
            name not in solver or solver[name].shape != wanted.shape
            for name, wanted in like.items()):
        return None
    losses = [InnerLoss(int(s), int(j), z, a) for s, j, z, a in tensors["losses"].tolist()]
    return Learnt(tensors["scale"], tensors["shift"], tensors["latent"], losses, solver)


def _same_first(tensors: dict[str, Tensor], first: Tensor) -> bool:
    if not tensors["latent"].shape == tensors["first"].shape == first.shape:
        return False
    off = torch.linalg.vector_norm(tensors["first"] - first.to("cpu", torch.float32))
    return bool(off <= SAME_FIRST * torch.linalg.vector_norm(tensors["first"]))


def _is_whole(tensors: dict[str, Tensor]) -> bool:
    """Whether all parts are there, finite, and of the forms that `save` gives them."""
    if not {"scale", "shift", "latent", "first", "losses"} <= tensors.keys():
        return False
    scale, shift, losses = tensors["scale"], tensors["shift"], tensors["losses"]
    forms = scale.ndim == 3 and scale.shape[1] == CHUNK_TOKENS and scale.shape == shift.shape
    exact = scale.dtype == shift.dtype == tensors["latent"].dtype == torch.float32
    counted = losses.ndim == 2 and losses.shape[1] == 4
    return forms and exact and counted and all(
        bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
