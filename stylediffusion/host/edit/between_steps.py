"""What is done between sampling steps: the source set right, and the edits kept to their places."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import trange

from ...method.local_blend import blend_mask, blended
from ...method.prompt_to_prompt import Control
from .patches import EditRun

LOOKING_BACK = {"sample_unipc", "sample_unipc_bh2"}


@dataclass
class BetweenSteps:
    """Local blend and exact source of one run; `masks` [targets, 1, h, w] are the last ones.

    `source_k` [N, C, h, w] holds the latents that row 0 is set to after each step.
    """

    run: EditRun
    control: Control | None
    source_k: Tensor | None
    masks: Tensor | None = None
    everywhere: Tensor | None = None

    def __call__(self, step: int, latents_k: Tensor) -> Tensor:
        """Latents [1 + targets, C, h, w] as the next step finds them."""
        if self.source_k is not None:
            latents_k = torch.cat([self.source_k[step : step + 1].to(latents_k), latents_k[1:]])
        control = self.control
        if control is None or not control.blends:
            return latents_k
        if self.run.columns:
            self.run.columns = [torch.stack(self.run.columns).sum(0)]
        if not control.blend.holds(step, self.run.plan.steps):
            return latents_k
        self.masks = self._places(control, latents_k)
        return blended(latents_k, self.masks)

    def shown(self, latents: Tensor) -> Tensor:
        """The last masks on the CPU, ones where nothing was blended, for latents [1 + n, ...]."""
        masks = torch.ones_like(latents[1:, :1]) if self.masks is None else self.masks
        return masks.cpu()

    def _places(self, control: Control, latents: Tensor) -> Tensor:
        """A mask [targets, 1, h, w]: painted, by words, or everywhere."""
        words = control.word_targets
        if self.everywhere is None:
            everywhere = torch.ones_like(latents[1:, :1])
            for i, target in enumerate(control.targets):
                if target.mask is not None:
                    everywhere[i, 0] = target.mask.to(latents)
            self.everywhere = everywhere
        if not words:
            return self.everywhere
        by_words = self._by_words(control, latents)
        if len(words) == len(control.targets):
            return by_words
        masks = self.everywhere.clone()
        for place, i in enumerate(words):
            masks[i] = by_words[place]
        return masks

    def _by_words(self, control: Control, latents: Tensor) -> Tensor:
        (columns,) = self.run.columns
        heat, subtract = columns.unflatten(1, (2, 2)).unbind(2)
        subtracts = any(control.targets[i].subtract is not None for i in control.word_targets)
        height, width = latents.shape[-2:]
        return blend_mask(heat, subtract if subtracts else None, height, width, control.blend)


def stepwise(sampler: comfy.samplers.Sampler, run: EditRun, after: BetweenSteps
             ) -> comfy.samplers.Sampler:
    """A sampler of the host that runs step by step, with `after` between the steps.

    One that looks back over earlier steps takes each as its first. Raises ValueError for samplers
    that cannot run a single step.
    """
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    if function is None or name in LOOKING_BACK:
        raise ValueError(
            f"blend_words, a mask and exact_source act between the steps, and the sampler {name} "
            "cannot stop between them; choose another, such as euler, heun or dpmpp_2m"
        )
    steps = functools.partial(_by_steps, function, run, after)
    return comfy.samplers.KSAMPLER(steps, sampler.extra_options, sampler.inpaint_options)


def _by_steps(
    function: Callable[..., Tensor], run: EditRun, after: BetweenSteps, model: Any, x: Tensor,
    sigmas: Tensor, extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None = None, disable: bool | None = None,
    **options: Any,
) -> Tensor:
    for i in trange(len(sigmas) - 1, disable=disable):

        def with_step(state: dict[str, Any], step: int = i) -> None:
            if callback is not None:
                callback({**state, "i": step})

        run.step = i
        # Samplers that add noise draw it from the seed: each step its own.
        step_args = {**extra_args, "seed": (extra_args.get("seed") or 0) + i}
        x = function(model, x, sigmas[i : i + 2], extra_args=step_args, callback=with_step,
                     disable=True, **options)
        x = after(i, x)
    return x
