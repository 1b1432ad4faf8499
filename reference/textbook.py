"""P2Plus as the paper's code does it: every map of every layer is computed, edited and multiplied.

Written from the rules of the released algorithm (section 3.4), and used as the reference for every
combination that was not recorded. Nothing here comes from the pack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def called(
    model: Any, x: Tensor, sigma: Tensor, context: Tensor, options: Any = None, **more: Tensor
) -> Tensor:
    """The host's bare model call where its weights lie at the moment, from and to the CPU."""
    device = next(model.model.parameters()).device
    more = {name: tensor.to(device) for name, tensor in more.items()}
    clean: Tensor = model.model.apply_model(
        x.to(device), sigma.to(device), c_crossattn=context.to(device),
        transformer_options=options or {}, **more)
    return clean.cpu()


@dataclass
class Edit:
    """One target: context [1, T, d], P [S, T], r [T], e [T], and {tokens: (lo, hi)} windows."""

    context: Tensor
    mapper: Tensor
    aligned: Tensor
    emphasis: Tensor | None = None
    windows: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)
    words: tuple[list[int], list[int]] | None = None
    subtract: tuple[list[int], list[int]] | None = None
    painted: Tensor | None = None


@dataclass
class Settings:
    """Windows lo-hi, guidance, the blend's numbers, and c * s + b per step."""

    tau_v: tuple[float, float]
    tau_c: tuple[float, float]
    tau_s: tuple[float, float]
    tau_u: tuple[float, float]
    guidance: float = 7.5
    threshold: float = 0.3
    start: float = 0.2
    scale: Tensor | None = None
    shift: Tensor | None = None
    pooling: int = 3
    softness: float = 0.0


class Controller:
    """Explicit maps in all layers of one UNet run."""

    def __init__(self, edits: list[Edit], settings: Settings, steps: int, quarter: int,
                 source_count: int = 77) -> None:
        self.edits, self.settings, self.steps, self.quarter = edits, settings, steps, quarter
        self.counts = [source_count, *(edit.context.shape[1] for edit in edits)]
        self.step = 0
        self.read: list[list[list[Tensor]]] = [[] for _ in edits]

    def inside(self, window: tuple[float, float], count: int) -> bool:
        return int(window[0] * count) <= self.step < int(window[1] * count)

    def probabilities(self, q: Tensor, k: Tensor, heads: int) -> Tensor:
        q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)

    def apply(self, maps: Tensor, v: Tensor, heads: int) -> Tensor:
        return (maps @ v.unflatten(-1, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Tensor:
        maps = self.probabilities(q, k, extra["n_heads"]).clone()
        uncond, cond = maps.chunk(2)
        factor = round(extra["original_shape"][-1] / extra["activations_shape"][-1])
        if factor >= 2 or q.shape[1] <= 1024:
            if self.inside(self.settings.tau_s, self.steps):
                cond[1:] = cond[:1]
            if self.inside(self.settings.tau_u, self.steps):
                uncond[1:] = uncond[:1]
        return self.apply(maps, v, extra["n_heads"])

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Tensor:
        """Maps over repeated tokens, as beside longer prompts, are summed over the repeats."""
        maps = self.probabilities(q, k, extra["n_heads"])
        out = self.apply(maps, v, extra["n_heads"])
        cond = len(q) // 2
        folded = [maps[cond + row].unflatten(-1, (-1, count)).sum(-2)
                  for row, count in enumerate(self.counts)]
        for i, edit in enumerate(self.edits):
            own = folded[i + 1]
            mapper, aligned = edit.mapper.to(own.device), edit.aligned.to(own.device)
            changed = folded[0] @ mapper * aligned + own * (1 - aligned)
            if edit.emphasis is not None:
                changed = changed * edit.emphasis.to(own.device)
            always = float(self.inside(self.settings.tau_c, self.steps + 1))
            alpha = torch.full((own.shape[-1],), always, device=own.device)
            for tokens, window in edit.windows.items():
                alpha[list(tokens)] = float(self.inside(window, self.steps + 1))
            folded[i + 1] = alpha * changed + (1 - alpha) * own
            row = slice(cond + i + 1, cond + i + 2)
            out[row] = self.apply(
                folded[i + 1][None], v[row, : own.shape[-1]], extra["n_heads"])
        grid = tuple(extra["activations_shape"][-2:])
        outer = extra["block"][0] != "middle"
        if outer and q.shape[1] == self.quarter:
            self.note(folded, grid)
        return out

    def note(self, cond: list[Tensor], grid: tuple[int, int]) -> None:
        for i in range(len(self.edits)):
            pair = [cond[0].mean(0), cond[i + 1].mean(0)]
            self.read[i].append([m.unflatten(0, grid).movedim(-1, 0) for m in pair])

    def mask(self, i: int, height: int, width: int) -> Tensor | None:
        """Source or target words' summed maps, pooled, over their maximum, above the threshold.

        With softness s the mask is 0 up to t (1 - s), 1 from t (1 - s) + s, and straight between.
        """
        edit, soft = self.edits[i], self.settings.softness
        if edit.painted is not None:
            return edit.painted
        if edit.words is None:
            return None

        def where(words: tuple[list[int], list[int]], pooling: int) -> Tensor:
            found = torch.zeros(height, width, device=self.read[i][0][0].device)
            for side in (0, 1):
                total = torch.stack(
                    [maps[side][words[side]].sum(0) for maps in self.read[i]]).sum(0)
                heat = torch.nn.functional.max_pool2d(total[None, None], pooling, 1, pooling // 2)
                heat = heat / heat.max()
                low, mode = self.settings.threshold * (1 - soft), "bilinear" if soft else "nearest"
                heat = torch.nn.functional.interpolate(heat, (height, width), mode=mode)[0, 0]
                rising = ((heat - low) / soft).clip(0, 1) if soft else (heat > low).float()
                found = torch.maximum(found, rising)
            return found

        mask = where(edit.words, self.settings.pooling)
        return mask * (1 - where(edit.subtract, 1)) if edit.subtract else mask


def options_of(run: Controller, settings: Settings, rows: int, steps: int) -> dict[str, Any]:
    """What the model's attention layers do, and hear, at the controller's step."""
    blocks = [(name, i) for name, count in (("input", 12), ("output", 12), ("middle", 3))
              for i in range(count)]

    def heard(n: Tensor, context: Tensor, value: Tensor, extra: Any) -> Any:
        value, i = value.clone(), run.step
        if settings.scale is None or settings.shift is None:
            return n, context, value
        reach = rows if steps * settings.tau_v[0] <= i < steps * settings.tau_v[1] else 1
        chunks = value.shape[1] // len(settings.scale[i])
        value[rows : rows + reach] *= settings.scale[i].repeat(chunks, 1).to(value.device)
        value[rows : rows + reach] += settings.shift[i].repeat(chunks, 1).to(value.device)
        return n, context, value

    return {
        "cond_or_uncond": [1, 0],
        "patches": {"attn2_patch": [heard]},
        "patches_replace": {
            "attn1": {block: run.self_attention for block in blocks},
            "attn2": {block: run.cross_attention for block in blocks},
        },
    }


def sample(
    model: Any, noise: Tensor, source: Tensor, negative: Tensor, edits: list[Edit],
    settings: Settings, timesteps: list[int], **more: Tensor,
) -> list[Tensor]:
    """VP latents [1 + targets, C, h, w] after every step, noisiest timestep first.

    `more` is what the model hears beside prompts, a row for each row of the batch.
    """
    alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
    steps, rows = len(timesteps), 1 + len(edits)
    height, width = noise.shape[-2:]
    run = Controller(edits, settings, steps, (height // 4) * (width // 4), source.shape[1])
    prompts = [negative] * rows + [source] + [edit.context for edit in edits]
    length = math.lcm(*(prompt.shape[1] for prompt in prompts))
    contexts = torch.cat([c.repeat(1, length // c.shape[1], 1) for c in prompts])
    z, seen = noise.repeat(rows, 1, 1, 1), []
    options = options_of(run, settings, rows, steps)
    for i, t in enumerate(timesteps):
        run.step = i
        here = float(alphas[t])
        below = float(alphas[timesteps[i + 1]] if i + 1 < steps else alphas[0])
        sigma = ((1 - here) / here) ** 0.5
        x = (z / here**0.5).repeat(2, 1, 1, 1)
        clean = called(model, x, torch.full((2 * rows,), sigma), contexts, options, **more)
        uncond, cond = ((x - clean) / sigma).chunk(2)
        noise_found = uncond + settings.guidance * (cond - uncond)
        z = below**0.5 * (z - (1 - here) ** 0.5 * noise_found) / here**0.5 \
            + (1 - below) ** 0.5 * noise_found
        if i >= int(settings.start * steps):
            for row in range(len(edits)):
                mask = run.mask(row, height, width)
                if mask is not None:
                    mask = mask.to(z.device)
                    z[row + 1] = z[0] + mask * (z[row + 1] - z[0])
        seen.append(z.clone())
    return seen
