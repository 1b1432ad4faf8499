"""One safetensors file for an inversion: trajectory, and the value embedding where there is one.

Files come from strangers: everything is checked against what a trajectory can be, and nothing in a
file is ever run.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..method.data import (
    PROMPT_BRANCHES,
    VALUE_EMBEDDING,
    Conditioning,
    Embedding,
    PromptEmbedding,
    Trajectory,
    ValueEmbedding,
)
from ..method.layers import AttentionLayer
from ..method.schedule import MAX_STEPS, TRAINING_TIMESTEPS, Levels
from ..method.value_embedding import CHUNK_TOKENS
from .reading import DamagedError, Metadata, checked, losses_of, read_whole
from .reading import require as _require
from .writing import losses_table, write_whole

FORMAT = "stylediffusion inversion"
VERSION = 1
Plain = (str, int, float, bool, type(None))
POOLED = "pooled_output"
BESIDE_PROMPT = {POOLED, "width", "height", "crop_w", "crop_h", "target_width",
                 "target_height"}
"""What may stand beside a prompt: the host's sampler obeys other entries, and trusts them."""


class FileError(ValueError):
    """A file that is not, or is no longer, an inversion."""


def save(path: Path, trajectory: Trajectory, embedding: Embedding | None) -> None:
    """Write a file that is whole or not there.

    Raises FileError where the conditioning holds more than a prompt, or a number is not finite,
    and OSError where the file cannot be written.
    """
    tensors = {
        "trajectory.latents": trajectory.latents,
        "trajectory.timesteps": trajectory.levels.timesteps,
        "trajectory.alphas_cumprod": trajectory.levels.alphas_cumprod,
    }
    content: dict[str, Any] = {
        "prompt": trajectory.prompt,
        "negative_prompt": trajectory.negative_prompt,
        "fingerprint": trajectory.fingerprint,
        "layers": [[x.block, x.number, x.index, x.height, x.width] for x in trajectory.layers],
        "positive": _pack("positive", trajectory.positive, tensors),
        "negative": _pack("negative", trajectory.negative, tensors),
    }
    if embedding is not None:
        scale, shift = _tables(embedding)
        tensors |= {"embedding.scale": scale, "embedding.shift": shift}
        tensors["embedding.losses"] = losses_table(embedding.losses)
        content["embedding"] = {
            "guidance": embedding.guidance, "prompt": embedding.prompt,
            "fingerprint": embedding.fingerprint, "kind": embedding.kind,
        }
    metadata = {"format": FORMAT, "version": str(VERSION), "content": json.dumps(content)}
    _require_finite(tensors, content)
    write_whole(path, tensors, metadata)


def _tables(embedding: Embedding) -> tuple[Tensor, Tensor]:
    """Scale and shift [N, 77, d], as every kind stands in a file: a prompt is c * 0 + b."""
    if isinstance(embedding, PromptEmbedding):
        return torch.zeros_like(embedding.contexts), embedding.contexts
    assert isinstance(embedding, ValueEmbedding)
    return embedding.scale, embedding.shift


def load(path: Path) -> tuple[Trajectory, Embedding | None]:
    """Read a file that `save` wrote; raises FileError for every other, and says what is wrong."""
    try:
        metadata, tensors = read_whole(path, lambda header: _require_format(path, header))
    except DamagedError as error:
        raise FileError(
            f"'{path.name}' {error}; it is cut short or damaged: save the inversion again"
        ) from error
    try:
        content = json.loads(metadata["content"])
        trajectory = _trajectory(content, tensors)
        embedding = _embedding(content, tensors, trajectory) if "embedding" in content else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
            ) as error:
        raise FileError(
            f"'{path.name}' is damaged or was changed by hand: {error}; save the inversion again"
        ) from error
    return trajectory, embedding


def _require_format(path: Path, metadata: Metadata) -> None:
    if metadata.get("format") != FORMAT:
        raise FileError(
            f"'{path.name}' is not an inversion saved by Save Inversion; choose one that is")
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise FileError(
            f"'{path.name}' has format version {version}, but this version of the pack reads "
            f"{VERSION}; update the pack, or save the inversion again"
        )


def _require_finite(tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    """Raise FileError for a part that `load` would refuse for its numbers."""
    parts = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    numbers = {"embedding.guidance": content.get("embedding", {}).get("guidance", 0.0)}
    for name in ("positive", "negative"):
        numbers |= {f"{name}.{i}.{key}": value for i, plain in enumerate(content[name])
                    for key, value in plain.items()}
    parts += [name for name, value in numbers.items() if not _is_plain(value)]
    if parts:
        raise FileError(
            f"nothing was saved, since {', '.join(parts)} of the inversion has values that are not "
            "finite (NaN or inf): a model overflowed on the way; start ComfyUI with --fp32-unet "
            "--fp32-vae --fp32-text-enc, or use another VAE, and make the inversion again"
        )


def _pack(name: str, conditioning: Conditioning, tensors: dict[str, Tensor]) -> list[Any]:
    """Plain values of conditioning entries; their tensors go to `tensors`."""
    packed = []
    for i, (cross, extra) in enumerate(conditioning):
        tensors[f"{name}.{i}"] = cross
        plain = {}
        for key, value in extra.items():
            if key not in BESIDE_PROMPT or not isinstance(value, (Tensor, *Plain)):
                raise FileError(
                    f"the {name} conditioning holds '{key}', a {type(value).__name__}, which "
                    "cannot be saved; invert without it"
                )
            if isinstance(value, Tensor):
                tensors[f"{name}.{i}.{key}"] = value
            else:
                plain[key] = value
        packed.append(plain)
    return packed


def _unpack(name: str, packed: Any, tensors: dict[str, Tensor]) -> Conditioning:
    _require(isinstance(packed, list) and len(packed) > 0, f"there is no {name} conditioning")
    conditioning: Conditioning = []
    for i, plain in enumerate(packed):
        start = f"{name}.{i}."
        _require(all(_is_plain(v) for v in plain.values()), f"{name} holds foreign values")
        cross = checked(tensors, f"{name}.{i}", (1, None, None))
        chunks, rest = divmod(cross.shape[1], CHUNK_TOKENS)
        _require(chunks > 0 and rest == 0, f"{name} has {cross.shape[1]} tokens")
        extra = {k[len(start):]: v for k, v in tensors.items() if k.startswith(start)}
        for key in (*plain, *extra):
            _require(key in BESIDE_PROMPT, f"{start}{key} is no part of a prompt")
        _require(extra.keys() <= {POOLED}, f"{start} has a tensor for a number")
        for key, value in plain.items():
            fits = value is None if key == POOLED else (
                isinstance(value, (int, float)) and abs(value) < 2**31)
            _require(fits, f"{start}{key} is no number, or too large")
        if POOLED in extra:
            checked(tensors, start + POOLED, (1, None), extra[POOLED].dtype)
        _require(all(torch.isfinite(v).all() for v in extra.values()), f"{name} is not finite")
        conditioning.append((cross, {**plain, **extra}))
    return conditioning


def _require_one_width(positive: Conditioning, negative: Conditioning) -> None:
    widths = {cross.shape[-1] for cross, _ in (*positive, *negative)}
    _require(len(widths) == 1, f"its prompts are {sorted(widths)} wide")


def _trajectory(content: dict[str, Any], tensors: dict[str, Tensor]) -> Trajectory:
    timesteps = tensors["trajectory.timesteps"]
    steps = len(timesteps)
    _require(timesteps.shape == (steps,) and 1 <= steps <= MAX_STEPS, f"it has {steps} steps")
    _require(timesteps.dtype == torch.int64, "its timesteps are no whole numbers")
    inside = int(timesteps.min()) >= 0 and int(timesteps.max()) < TRAINING_TIMESTEPS
    _require(inside and bool((timesteps.diff() > 0).all()), "its timesteps do not ascend")
    alphas = checked(tensors, "trajectory.alphas_cumprod", (steps + 1,), torch.float64)
    falls = bool((alphas.diff() < 0).all()) and float(alphas[-1]) > 0 and float(alphas[0]) < 1
    _require(falls, "its noise levels do not ascend")
    layers = tuple(AttentionLayer(_text(b), *(_count(n) for n in numbers))
                   for b, *numbers in content["layers"])
    latents = checked(tensors, "trajectory.latents", (steps + 1, None, None, None))
    _require(latents.numel() > 0, "its latents are empty")
    height, width = latents.shape[-2:]
    _require(all(0 < layer.height <= height and 0 < layer.width <= width for layer in layers),
             "it has a layer without cells, or with more than its latents")
    positive, negative = (
        _unpack(name, content[name], tensors) for name in ("positive", "negative"))
    _require_one_width(positive, negative)
    return Trajectory(
        latents=latents,
        levels=Levels(timesteps, alphas),
        prompt=_text(content["prompt"]),
        negative_prompt=_text(content["negative_prompt"]),
        positive=positive,
        negative=negative,
        layers=layers,
        fingerprint=_text(content["fingerprint"]),
    )


def _embedding(
    content: dict[str, Any], tensors: dict[str, Tensor], trajectory: Trajectory
) -> Embedding:
    said = content["embedding"]
    width = trajectory.positive[0][0].shape[-1]
    shape = (trajectory.steps, CHUNK_TOKENS, width)
    guidance = float(said["guidance"])
    _require(math.isfinite(guidance), f"its guidance is {guidance}")
    kind = said.get("kind", VALUE_EMBEDDING)
    _require(kind in [VALUE_EMBEDDING, *PROMPT_BRANCHES], f"{kind!r} is no kind of embedding")
    scale, shift = (checked(tensors, f"embedding.{name}", shape) for name in ("scale", "shift"))
    origin: dict[str, Any] = {
        "guidance": guidance, "prompt": _text(said["prompt"]),
        "fingerprint": _text(said["fingerprint"]), "ends": trajectory.ends,
        "losses": tuple(losses_of(tensors, "embedding.losses", trajectory.steps)),
    }
    if kind == VALUE_EMBEDDING:
        return ValueEmbedding(scale, shift, **origin)
    _require(not scale.any(), f"its {kind} has a scale")
    return PromptEmbedding(shift, PROMPT_BRANCHES[kind], **origin)


def _text(value: Any) -> str:
    _require(isinstance(value, str), f"{value!r} is no text")
    return str(value)


def _count(value: Any) -> int:
    counts = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    _require(counts, f"{value!r} is no number")
    return int(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Plain) and not (isinstance(value, float) and not math.isfinite(value))
