"""All measures of an edit by name: what each is, what it needs, and the report that shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from . import perceptual, pixels, structure, text_agreement
from .regions import (
    AS_PUBLISHED,
    EDITED,
    UNMASKED,
    WHOLE,
    Values,
    hard,
    mean,
    require_same_size,
    size,
)

SQUEEZE, ALEX, DINO, CLIP = "squeeze", "alex", "dino", "clip"
REGION_NAMES = {WHOLE: "", UNMASKED: "_unmasked", EDITED: "_edited", AS_PUBLISHED: "_published"}
REGION_TITLES = {WHOLE: "whole", UNMASKED: "unmasked pixels", EDITED: "edited region",
                 AS_PUBLISHED: "as published, zeros in the mask"}


@dataclass(frozen=True)
class Compared:
    """What is measured: pictures [B, H, W, 3] in 0..1, and, where there are any, masks and words.

    `mask` [B, H, W] says where the edit is meant to be, `looked_at` where the source's blend word
    looks; prompts are one for all pictures or one for each.
    """

    reference: Tensor
    edit: Tensor
    mask: Tensor | None = None
    looked_at: Tensor | None = None
    prompts: tuple[str, ...] = ()
    source_prompts: tuple[str, ...] = ()


Networks = Mapping[str, Any]
"""squeeze and alex: `perceptual.Network`; dino: pictures and a factor to keys; clip:
`text_agreement.Clip`."""


@dataclass(frozen=True)
class Metric:
    """A measure's name in files and sockets, what it is, and what of `Compared` it needs."""

    name: str
    title: str
    compute: Callable[[Any, Networks], Values]
    needs: tuple[str, ...] = ()
    network: str | None = None
    digits: int = 3


def _of_pixels(name: str, title: str, measure: Callable[..., Values], digits: int) -> list[Metric]:
    """One measure in its regions; only PSNR is taken inside the edit as well."""
    regions = [WHOLE, UNMASKED, AS_PUBLISHED, *([EDITED] if name == "psnr" else [])]
    return [_in_region(name, title, measure, digits, region) for region in regions]


def _in_region(
    name: str, title: str, measure: Callable[..., Values], digits: int, region: str
) -> Metric:
    def compute(c: Compared, _: Networks) -> Values:
        return measure(c.reference, c.edit, None if region == WHOLE else c.mask, region)

    return Metric(name + REGION_NAMES[region], f"{title}, {REGION_TITLES[region]}", compute,
                  () if region == WHOLE else ("mask",), None, digits)


METRICS: tuple[Metric, ...] = (
    *_of_pixels("psnr", "PSNR in dB", pixels.psnr, 2),
    *_of_pixels("ssim", "SSIM", pixels.ssim, 4),
    *_of_pixels("mse", "MSE", pixels.mse, 5),
    Metric("lpips_squeeze_512", "LPIPS squeeze at 512x512 on x*2-1 (PIE-Bench)",
           lambda c, n: perceptual.lpips(n[SQUEEZE], c.reference, c.edit),
           network=SQUEEZE, digits=4),
    Metric("lpips_squeeze_512_unmasked", "spatial LPIPS squeeze at 512x512, weighted by 1 - mask",
           lambda c, n: perceptual.lpips_unmasked(n[SQUEEZE], c.reference, c.edit, c.mask),
           ("mask",), SQUEEZE, 4),
    Metric("ns_lpips_alex_256",
           "NS-LPIPS alex v0.1 at 256x256 on 0..1, times 1 - attention (released code)",
           lambda c, n: perceptual.ns_lpips(n[ALEX], c.reference, c.edit, c.looked_at),
           ("looked_at",), ALEX, 4),
    Metric("structure_distance", "structure distance, DINO ViT-B/8 on 0..1",
           lambda c, n: structure.structure_distance(
               lambda pictures: n[DINO](pictures, 1.0), c.reference, c.edit),
           network=DINO, digits=5),
    Metric("structure_distance_0_255", "structure distance, DINO ViT-B/8 on 0..255 (PIE-Bench)",
           lambda c, n: structure.structure_distance(
               lambda pictures: n[DINO](pictures, 255.0), c.reference, c.edit),
           network=DINO, digits=5),
    Metric("clip_score", "CLIPScore ViT-L/14, whole",
           lambda c, n: text_agreement.clip_score(
               n[CLIP].images, n[CLIP].texts, c.edit, c.prompts),
           ("prompts",), CLIP, 2),
    Metric("clip_score_edited", "CLIPScore ViT-L/14, edited region (PIE-Bench)",
           lambda c, n: text_agreement.clip_score(
               n[CLIP].images, n[CLIP].texts, c.edit, c.prompts, c.mask),
           ("prompts", "mask"), CLIP, 2),
    Metric("clip_direction", "directional CLIP similarity ViT-L/14",
           lambda c, n: text_agreement.directional_similarity(
               n[CLIP].images, n[CLIP].texts, c.reference, c.edit, c.source_prompts,
               c.prompts),
           ("prompts", "source_prompts"), CLIP, 4),
)

Row = Values | str


def needed_networks(compared: Compared) -> set[str]:
    """The networks of all metrics whose inputs are there."""
    return {metric.network for metric in METRICS
            if metric.network is not None and not _lacks(metric, compared)}


def measure(
    compared: Compared, networks: Networks, missing: Mapping[str, str]
) -> dict[str, Row]:
    """Every metric's numbers, one a picture, or the reason why it has none.

    `missing` says for each network that is not there why not. Raises ValueError for pictures,
    masks or prompts that do not go together.
    """
    count = require_same_size(compared.reference, compared.edit, compared.mask)
    for name, prompts in (("prompt", compared.prompts), ("source_prompt", compared.source_prompts)):
        if len(prompts) not in (0, 1, count):
            raise ValueError(f"{name} has {len(prompts)} lines, but {count} pictures are compared; "
                             "write one for all, or one line for each picture")
    looked_at = compared.looked_at
    if looked_at is not None and len(looked_at) not in (1, count):
        raise ValueError(
            f"looked_at holds {len(looked_at)} masks, but {count} pictures are compared; connect "
            "one mask for all, or one for each: name a single word in words of Cross-Attention "
            "Heatmaps")
    return {metric.name: _row(metric, compared, networks, missing) for metric in METRICS}


def _row(
    metric: Metric, compared: Compared, networks: Networks, missing: Mapping[str, str]
) -> Row:
    lacks = _lacks(metric, compared)
    if lacks:
        return f"connect {' and '.join(lacks)}"
    if metric.network is not None and metric.network not in networks:
        return missing[metric.network]
    return metric.compute(compared, networks)


def _lacks(metric: Metric, compared: Compared) -> list[str]:
    """The inputs that a metric needs and has not, as the node names them."""
    inputs = {"prompts": "prompt", "source_prompts": "source_prompt"}
    lacks = []
    for name in metric.needs:
        given = getattr(compared, name)
        if given is None or (isinstance(given, tuple) and not given):
            lacks.append(inputs.get(name, name))
    return lacks


def means(rows: Mapping[str, Row]) -> dict[str, float]:
    """The mean of every metric over its pictures, NaN where it has no number."""
    values = {name: None if isinstance(row, str) else mean(row) for name, row in rows.items()}
    return {name: math.nan if value is None else value for name, value in values.items()}


def report(compared: Compared, rows: Mapping[str, Row]) -> str:
    """A line for each metric: its mean and, of several pictures, every number; or the reason."""
    count = max(len(compared.reference), len(compared.edit))
    lines = [f"{count} {'edit' if count == 1 else 'edits'} of {size(compared.edit)} pixels"]
    if compared.mask is not None:
        lines[0] += f", {float(hard(compared.mask).float().mean()):.0%} of them masked"
    for metric in METRICS:
        lines.append(f"{metric.title}: {_told(rows[metric.name], metric.digits)}")
    return "\n".join(lines)


def _told(row: Row, digits: int) -> str:
    if isinstance(row, str):
        return f"- ({row})"
    middle = mean(row)
    if middle is None:
        return "- (the mask is empty or full, or nothing is left to compare)"
    if len(row) == 1:
        return f"{middle:.{digits}f}"
    each = ", ".join("-" if value is None else f"{value:.{digits}f}" for value in row)
    return f"{middle:.{digits}f} ({each})"
