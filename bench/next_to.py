"""Other nodes of the host on a small MODEL, and what our steps do behind them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from . import subjects  # noqa: F401  isort: skip  (before anything that imports comfy)

import comfy.samplers
import folder_paths
import torch
from torch import Tensor

from . import neighbours
from .chain import SOURCE, Chain, Verdict, apart

Row = tuple[str, float, dict[str, Verdict]]


def all_of_them(names: list[str] | None) -> Iterator[Row]:
    """(node, share of a plain sample that it changes, verdicts) of every neighbour, or of some."""
    with tempfile.TemporaryDirectory() as folder:
        neighbours.write_files(Path(folder))
        for kind in ("loras", "embeddings"):
            folder_paths.add_model_folder_path(kind, folder)
        with torch.inference_mode():
            model, other = (neighbours.unet_model(neighbours.SMALL, loud) for loud in (1.0, 1.2))
            clip, others = neighbours.clip(), neighbours.clip(24)
        on_model = {**neighbours.LEARNT_WITH, **neighbours.MERGED, **neighbours.COMPILED,
                    **neighbours.CHANGE_GUIDANCE, **neighbours.REFUSED}
        for name, equip in chosen(on_model, names):
            with torch.inference_mode():
                equipped = equip(model, other)
            yield seen(name, equipped, clip, model, clip)
        for name, equip in chosen(neighbours.ON_CLIP, names):
            with torch.inference_mode():
                equipped = equip(clip, others)
            yield seen(name, model, equipped, model, clip)


def chosen(nodes: dict[str, Any], names: list[str] | None) -> list[tuple[str, Any]]:
    """All nodes, or those of some names."""
    return [(name, equip) for name, equip in nodes.items() if not names or name in names]


def seen(name: str, model: Any, clip: Any, plain: Any, plain_clip: Any) -> Row:
    """One neighbour's row."""
    own, without = (partial(sampled, *pair) for pair in ((model, clip), (plain, plain_clip)))
    changed = apart(own(), without())
    return name, changed, Chain(model, clip, steps=3, latent=(16, 16)).run()


def sampled(model: Any, clip: Any) -> Tensor:
    """What the host alone paints."""
    with torch.inference_mode():
        torch.manual_seed(0)
        noise = torch.randn(1, 4, 16, 16)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*(clip.encode_from_tokens_scheduled(clip.tokenize(text))
                           for text in (SOURCE, "")))
        guider.set_cfg(4.0)
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", 4)
        painted: Tensor = guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas,
            disable_pbar=True, seed=0)
    return painted
