"""Blocks of the UNet computed again in the backward pass, so that less is kept for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from functools import partial
from typing import Any

from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention import MapRecorder, with_patch

BLOCK_PATCH = "forward_timestep_embed_patch"
Block = Callable[..., Tensor]
Runner = Callable[..., Tensor]


class Checkpoints(IntEnum):
    """Which blocks are computed twice; each keeps less than the one before."""

    OFF = 0
    RESBLOCKS = 1
    TRANSFORMERS = 2

    def __str__(self) -> str:
        return ("off", "on for ResBlocks", "on for ResBlocks and transformer blocks")[self]


def with_checkpoints(
    options: dict[str, Any], wanted: Checkpoints, recorder: MapRecorder,
    context: AbstractContextManager[Any] | None = None,
) -> dict[str, Any]:
    """A copy of model options under which blocks are computed again in the backward pass.

    `recorder` holds the maps of the pass: those of a block leave it as its outputs, so gradients
    flow through them and the second computation records nothing. `context` is entered for that.
    """
    if wanted == Checkpoints.OFF:
        return options

    def run(block: Block, *inputs: Any) -> Tensor:
        out, *maps = checkpoint(
            partial(_with_maps, recorder, block), *inputs, use_reentrant=False,
            context_fn=lambda: (nullcontext(), context or nullcontext()))
        recorder.maps.extend(maps)
        return out

    return with_runners(options, run, run if wanted == Checkpoints.TRANSFORMERS else None)


def _with_maps(recorder: MapRecorder, block: Block, *inputs: Any) -> tuple[Tensor, ...]:
    """What a block gives, then the maps seen in it; a second computation may break off early."""
    others, recorder.maps = recorder.maps, []
    try:
        return block(*inputs), *recorder.maps
    finally:
        recorder.maps = others


def with_runners(
    options: dict[str, Any], resblocks: Runner, transformers: Runner | None
) -> dict[str, Any]:
    """A copy of model options under which blocks are run as runner(block, x, emb or context)."""
    options = with_patch(options, BLOCK_PATCH, (ResBlock, partial(_run_resblock, resblocks)))
    if transformers is None:
        return options
    handler = partial(_run_transformer, transformers)
    return with_patch(options, BLOCK_PATCH, (SpatialTransformer, handler))


def _run_resblock(run: Runner, block: ResBlock, x: Tensor, emb: Tensor, *_: Any) -> Tensor:
    return run(block, x, emb)


def _run_transformer(
    run: Runner, layer: SpatialTransformer, x: Tensor, emb: Tensor, context: Any,
    options: dict[str, Any], *_: Any,
) -> Tensor:
    """The host's own layer, over blocks that a runner runs; counted as the host counts it."""
    copied = copy.copy(layer)
    vars(copied)["transformer_blocks"] = [
        partial(_run_block, run, block) for block in layer.transformer_blocks]
    out: Tensor = copied(x, context, options)
    if "transformer_index" in options:
        options["transformer_index"] += 1
    return out


def _run_block(
    run: Runner, block: BasicTransformerBlock, x: Tensor, context: Tensor | None = None,
    transformer_options: dict[str, Any] | None = None,
) -> Tensor:
    """A block with options of its own: the host goes on to change them for the next layers."""
    options = dict(transformer_options or {})
    return run(partial(block, transformer_options=options), x, context)
