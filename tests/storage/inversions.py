"""Inversions of three steps, of random numbers, for tests of their files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stylediffusion_pack.stylediffusion.method import data, schedule
from stylediffusion_pack.stylediffusion.method.layers import AttentionLayer

STEPS = 3


def trajectory() -> data.Trajectory:
    levels = schedule.make_levels(STEPS, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    positive = [(torch.randn(1, 77, 8), {"pooled_output": torch.randn(1, 5), "width": 1024})]
    negative: data.Conditioning = [(torch.randn(1, 77, 8), {"pooled_output": None})]
    layers = (AttentionLayer("input", 4, 0, 4, 6),)
    latents = torch.randn(STEPS + 1, 4, 16, 24)
    return data.Trajectory(
        latents, levels, "a cat", "", positive, negative, layers, "f" * 16)


def embedding() -> data.ValueEmbedding:
    return data.ValueEmbedding(
        torch.randn(STEPS, 77, 8), torch.randn(STEPS, 77, 8), guidance=7.5, prompt="a cat",
        fingerprint="f" * 16,
        losses=(data.InnerLoss(0, 0, 0.1, 0.25), data.InnerLoss(1, 0, 1 / 3, 0.0)))


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dataclasses, lists and dicts."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and same(vars(a), vars(b))
    return bool(a == b)


def prompt_embedding(kind: str) -> data.PromptEmbedding:
    return data.PromptEmbedding(
        torch.randn(STEPS, 77, 8), {"null text": 1, "text embedding": 0}[kind], guidance=3.5,
        prompt="a cat", fingerprint="f" * 16, losses=(data.InnerLoss(0, 0, 0.1, 0.0),))


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with other metadata, content or tensors, and without a checksum, as old ones."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksum"]
    content = json.loads(metadata["content"])
    content.update(changes.get("content", {}))
    metadata.update(changes.get("metadata", {}), content=json.dumps(content))
    tensors = {**load_file(path), **changes.get("tensors", {})}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata)
    return path
