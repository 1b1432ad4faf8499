"""How much memory learning will need, found by small trials, and what is done if it is short."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import latent_preview
import torch
from torch import Tensor

from ..autograd.checkpoints import Checkpoints, with_runners
from ..model import ModelPatcher

log = logging.getLogger("stylediffusion")
GIB = 2**30
TRIAL_SIZES = (8, 16)
MARGIN = 1.2
TAESD_CELL = 3 * 64 * 8 * 8 * 4  # its last layers hold three fp32 tensors of 64 channels at once


@dataclass(frozen=True)
class Estimate:
    """Bytes that learning a picture needs beside the weights, for each of `Checkpoints`.

    `maps` says whether attention maps, which the attention loss needs, are among them; `pictures`
    how many are waiting.
    """

    needed: tuple[int, ...]
    maps: bool = False
    pictures: int = 1

    def choose(self, free: int) -> Checkpoints:
        """The first that fits; raises MemoryError where none does."""
        for wanted, needed in zip(Checkpoints, self.needed, strict=True):
            if needed <= free:
                return wanted
        without_maps = "set attention_weight to 0, " if self.maps else ""
        raise MemoryError(
            f"learning needs about {min(self.needed) / GIB:.1f} GiB beside the model, and "
            f"{free / GIB:.1f} GiB are free; use a smaller picture, {without_maps}close other "
            "programs, run the model in half precision (--bf16-unet), or learn nothing: switch "
            "exact_source of Sample on, with no value_embedding connected"
        )


def require_room_for_copy(model: ModelPatcher) -> None:
    """Raise MemoryError where a second copy of the weights, which gradients need, cannot fit.

    On a GPU the host makes room by itself, so only a card smaller than the weights is refused.
    """
    size, device = model.model_size(), model.load_device
    if device.type != "cpu":
        total = comfy.model_management.get_total_memory(device)
        if size > total:
            raise _weights_do_not_fit(model, f"it has {total / GIB:.1f} GiB")
        return
    free = comfy.model_management.get_free_memory(device)
    if size > free:
        raise MemoryError(
            f"learning needs a second copy of the model, {size / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free; close other programs, or run the model in half "
            "precision (--bf16-unet)"
        )


def _weights_do_not_fit(model: ModelPatcher, room: str) -> MemoryError:
    return MemoryError(
        f"learning needs all {model.model_size() / GIB:.1f} GiB of the model's weights on the "
        f"GPU, and {room}; close other programs, or run the model in half precision (--bf16-unet)")


class SavedBytes:
    """Counts the bytes autograd keeps while it is active, each storage once, weights left out."""

    def __init__(self, seen: set[int]) -> None:
        self.seen = seen
        self.held: list[Tensor] = []
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        detached = tensor.detach()  # an output kept as it is would hold its own graph for ever
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.held.append(detached)  # so that no other storage gets its address
            self.bytes += storage.nbytes()
        return detached

    @contextmanager
    def counting(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            yield


class BlockCounter:
    """Runs blocks as they are and notes what each of them keeps, and what they start from."""

    def __init__(self, seen: set[int]) -> None:
        self.seen = seen
        self.kept: list[int] = []
        self.inputs = 0

    def run(self, block: Callable[..., Tensor], x: Tensor, *inputs: Any) -> Tensor:
        saved = SavedBytes(self.seen)
        with saved.counting():
            out = block(x, *inputs)
        self.kept.append(saved.bytes)
        self.inputs += x.untyped_storage().nbytes() if saved.bytes else 0
        return out


@dataclass(frozen=True)
class GraphBytes:
    """Bytes kept by each ResBlock and transformer block, by what is in neither, and the inputs."""

    resblocks: Tensor
    transformers: Tensor
    rest: Tensor
    resblock_inputs: Tensor
    transformer_inputs: Tensor

    def at(self, cells: int, other: GraphBytes, other_cells: int, wanted: int) -> GraphBytes:
        """What a latent of so many cells keeps: a constant and a share of every cell."""
        share = (wanted - cells) / max(1, other_cells - cells)
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return GraphBytes(*(few + (many - few) * share for few, many in pairs))

    def needed(self) -> tuple[float, float, float]:
        """For each of `Checkpoints`: nothing is computed twice, ResBlocks are, all blocks are.

        What is computed twice stands there once for its input and, one block at a time, whole.
        """
        resblocks, transformers = self.resblocks.sum(), self.transformers.sum()
        largest = self.resblocks.max()
        light = self.rest + self.resblock_inputs
        both = torch.maximum(largest, self.transformers.max())
        return (float(self.rest + resblocks + transformers),
                float(light + transformers + largest),
                float(light + self.transformer_inputs + both))


def estimate(
    model: torch.nn.Module, forward: Callable[[dict[str, Any], int], list[Tensor]],
    options: dict[str, Any], latent: Tensor, maps: bool, preview: int = 0,
) -> Estimate:
    """What learning on a latent [1, C, h, w] needs, from two passes on corners of it.

    `forward` runs on a corner with so many rows and columns and returns the maps of the whole
    latent. No map of cells by cells is made, so what is kept grows with the cells. Beside the graph
    stand the wanted maps, those found and their gradients; a preview is made without a graph.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    recorded: list[Tensor] = []

    def trial(side: int) -> tuple[int, GraphBytes]:
        seen = set(weights)
        resblocks, transformers, rest = BlockCounter(seen), BlockCounter(seen), SavedBytes(seen)
        with rest.counting():
            recorded[:] = forward(with_runners(options, resblocks.run, transformers.run), side)
        counts = (resblocks.kept or [0], transformers.kept or [0], rest.bytes, resblocks.inputs,
                  transformers.inputs)
        cells = latent[0, 0, :side, :side].numel()
        return cells, GraphBytes(*(torch.tensor(count, dtype=torch.float64) for count in counts))

    (cells, few), (other_cells, many) = map(trial, TRIAL_SIZES)
    kept = few.at(cells, many, other_cells, latent[0, 0].numel())
    wanted = sum(4 * grid.numel() for grid in recorded)
    beside = (2 * wanted, 2 * wanted, 3 * wanted)  # those found are in the graph, or outputs of it
    return Estimate(tuple(
        max(int(graph * MARGIN) + more, int(preview * MARGIN) + wanted)
        for graph, more in zip(kept.needed(), beside, strict=True)), maps)


def preview_bytes(previewer: latent_preview.LatentPreviewer | None, latent: Tensor) -> int:
    """What a preview of a latent [1, C, h, w] needs: a small decoder's layers, or nothing."""
    decodes = isinstance(previewer, latent_preview.TAESDPreviewerImpl)
    return TAESD_CELL * latent[0, 0].numel() if decodes else 0


@dataclass(frozen=True)
class MemoryPlan:
    """What was estimated, what is free, and which blocks are computed twice for it."""

    estimate: Estimate
    free: int
    checkpoints: Checkpoints

    @property
    def together(self) -> int:
        """How many pictures fit side by side; one where blocks are computed twice for it."""
        return max(1, min(self.estimate.pictures, self.free // max(1, self.estimate.needed[0])))

    def portions(self) -> list[range]:
        """The pictures in as few portions as that takes, of about the same size."""
        pictures = self.estimate.pictures
        count = -(-pictures // self.together)
        return [range(i * pictures // count, (i + 1) * pictures // count) for i in range(count)]


def load_whole(model: ModelPatcher, others: list[ModelPatcher]) -> None:
    """Have all weights on a GPU: one that rests elsewhere would be kept once for every use of it.

    `others` are the models of the same run. Raises MemoryError where the weights alone do not fit.
    """
    models = [model, *others]
    if model.load_device.type == "cpu" or all(
            each.loaded_size() >= each.model_size() for each in models):
        return
    try:
        comfy.model_management.load_models_gpu(models, force_full_load=True)
    except comfy.model_management.OOM_EXCEPTION as error:
        free = comfy.model_management.get_free_memory(model.load_device)
        raise _weights_do_not_fit(model, f"{free / GIB:.1f} GiB are free") from error
    if model.loaded_size() < model.model_size():
        raise _weights_do_not_fit(model, "ComfyUI keeps some of them elsewhere, as with --novram")


def plan_memory(model: ModelPatcher, others: list[ModelPatcher], needs: Estimate) -> MemoryPlan:
    """Have the host put models aside that are not of this run, where it must, then choose.

    Raises MemoryError where even checkpoints do not make learning fit.
    """
    free = comfy.model_management.get_free_memory(model.load_device)
    needed = needs.needed[0] * needs.pictures
    if needed > free:
        comfy.model_management.load_models_gpu(
            [model, *others], memory_required=needed, force_full_load=True)
        free = comfy.model_management.get_free_memory(model.load_device)
    return MemoryPlan(needs, int(free), needs.choose(int(free)))


def begin_peak(device: torch.device) -> None:
    """Forget what was in use before a run; other nodes' figures of PyTorch's peak start anew too.

    There is no other way to tell this run's peak. On a CPU nothing can be forgotten.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most in use on a CUDA device since `begin_peak`, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(plan: MemoryPlan, device: torch.device) -> None:
    """One line with the estimate, the choice and the peak."""
    peak = peak_bytes(device)
    needed = [f"{bytes_ / GIB:.2f}" for bytes_ in plan.estimate.needed]
    log.info(
        "learning: %s GiB estimated beside the model (%s with checkpoints), %.1f GiB free, "
        "checkpoints %s, peak of the %s %s", needed[0], " or ".join(needed[1:]), plan.free / GIB,
        plan.checkpoints, "process" if device.type == "cpu" else "run",
        "unknown" if peak is None else f"{peak / GIB:.2f} GiB")
    if plan.estimate.pictures > 1:
        log.info("%d pictures were learnt, %d at a time", plan.estimate.pictures, plan.together)
