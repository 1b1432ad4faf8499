"""How much memory learning will need, found by small trials, and what is done if it is short."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attention import with_patch
from .model import ModelPatcher

log = logging.getLogger("stylediffusion")
GIB = 2**30
TRIAL_SIZES = (8, 16)
MARGIN = 1.2
BLOCK_PATCH = "forward_timestep_embed_patch"


@dataclass(frozen=True)
class Estimate:
    """Bytes that one forward pass keeps for its backward pass, with and without checkpoints.

    `maps` says whether attention maps, which the attention loss needs, are among them.
    """

    whole: int
    checkpointed: int
    maps: bool = False

    def choose(self, free: int) -> bool:
        """Whether checkpoints are needed; raises MemoryError where even they do not make it fit."""
        if self.whole <= free:
            return False
        if self.checkpointed <= free:
            return True
        without_maps = "set attention_weight to 0, " if self.maps else ""
        raise MemoryError(
            f"learning needs about {self.checkpointed / GIB:.1f} GiB beside the model, and "
            f"{free / GIB:.1f} GiB are free; use a smaller picture, {without_maps}close other "
            "programs, or run the model in half precision (--bf16-unet)"
        )


def require_room_for_copy(model: ModelPatcher) -> None:
    """Raise MemoryError where a second copy of the weights, which gradients need, cannot fit.

    On a GPU the host makes room by itself; on a CPU nothing would.
    """
    size, free = model.model_size(), comfy.model_management.get_free_memory(torch.device("cpu"))
    if model.load_device.type == "cpu" and size > free:
        raise MemoryError(
            f"learning needs a second copy of the model, {size / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free; close other programs, or run the model in half "
            "precision (--bf16-unet)"
        )


class Saved:
    """Counts the bytes autograd keeps while it is active, each storage once, weights left out."""

    def __init__(self, weights: set[int]) -> None:
        self.seen = set(weights)
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor.detach()  # an output kept as it is would hold its own graph for ever

    @contextmanager
    def counting(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            yield


class BlockCounter:
    """Runs ResBlocks as they are and notes what each of them keeps and what it starts from."""

    def __init__(self, weights: set[int]) -> None:
        self.weights = weights
        self.kept: list[int] = []
        self.inputs = 0

    def handler(self, block: ResBlock, x: Tensor, emb: Tensor, *_: Any) -> Tensor:
        saved = Saved(self.weights)
        with saved.counting():
            out = block(x, emb)
        self.kept.append(saved.bytes)
        self.inputs += x.untyped_storage().nbytes()
        return out


def estimate(
    model: torch.nn.Module, forward: Callable[[dict[str, Any], Tensor], Any],
    options: dict[str, Any], latent: Tensor, maps: bool,
) -> Estimate:
    """What a forward pass on a latent [1, C, h, w] will keep, from two passes on corners of it.

    What is kept is a constant and a share of every cell: no map of cells by cells is made.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def trial(corner: Tensor) -> tuple[int, Tensor]:
        blocks, rest = BlockCounter(weights), Saved(weights)
        with rest.counting():
            forward(with_patch(options, BLOCK_PATCH, (ResBlock, blocks.handler)), corner)
        light = rest.bytes + blocks.inputs + max(blocks.kept, default=0)
        found = torch.tensor([rest.bytes + sum(blocks.kept), light], dtype=torch.float64)
        return corner[0, 0].numel(), found

    (few, small), (many, large) = (trial(latent[..., :n, :n]) for n in TRIAL_SIZES)
    cells = latent[0, 0].numel()
    each = (large - small) / max(1, many - few)
    whole, light = ((large + each * (cells - many)) * MARGIN).long().tolist()
    return Estimate(whole, light, maps)


def with_checkpoints(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of model options under which ResBlocks are computed again in the backward pass."""
    return with_patch(options, BLOCK_PATCH, (ResBlock, _checkpointed))


def _checkpointed(block: ResBlock, x: Tensor, emb: Tensor, *_: Any) -> Tensor:
    again: Tensor = checkpoint(functools.partial(block), x, emb, use_reentrant=False)
    return again


@dataclass(frozen=True)
class Room:
    """What was estimated, what is free, and whether ResBlocks are computed twice for it."""

    estimate: Estimate
    free: int
    checkpoints: bool


def load_whole(model: ModelPatcher, others: list[ModelPatcher]) -> None:
    """Have all weights on a GPU: one that rests elsewhere would be kept once for every use of it.

    `others` are the models of the same run. Raises MemoryError where the weights alone do not fit.
    """
    if model.load_device.type == "cpu" or model.loaded_size() >= model.model_size():
        return
    try:
        comfy.model_management.load_models_gpu([model, *others], force_full_load=True)
    except comfy.model_management.OOM_EXCEPTION as error:
        free = comfy.model_management.get_free_memory(model.load_device)
        raise MemoryError(
            f"learning needs all {model.model_size() / GIB:.1f} GiB of the model's weights on the "
            f"GPU, and {free / GIB:.1f} GiB are free; close other programs, or run the model in "
            "half precision (--bf16-unet)"
        ) from error


def make_room(model: ModelPatcher, others: list[ModelPatcher], found: Estimate) -> Room:
    """Have the host put models aside that are not of this run, where it must, then choose.

    Raises MemoryError where even checkpoints do not make learning fit.
    """
    free = comfy.model_management.get_free_memory(model.load_device)
    if found.whole > free:
        comfy.model_management.load_models_gpu(
            [model, *others], memory_required=found.whole, force_full_load=True)
        free = comfy.model_management.get_free_memory(model.load_device)
    return Room(found, int(free), found.choose(int(free)))


def peak_bytes(device: torch.device) -> int | None:
    """The most that was in use on a CUDA device, or by this process on a CPU, where known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(room: Room, device: torch.device) -> None:
    """One line with the estimate, the choice and the peak."""
    peak = peak_bytes(device)
    log.info(
        "learning: %.2f GiB estimated beside the model (%.2f with checkpoints), %.1f GiB free, "
        "checkpoints %s, peak of the process %s", room.estimate.whole / GIB,
        room.estimate.checkpointed / GIB, room.free / GIB, "on" if room.checkpoints else "off",
        "unknown" if peak is None else f"{peak / GIB:.2f} GiB")
