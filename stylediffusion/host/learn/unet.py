"""The differentiable call of the host's UNet: VP latents in, VP noise out, and maps where asked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...method.data import CONDITIONAL
from ...method.layers import AttentionLayer
from ...method.schedule import Levels
from ...method.value_embedding import CHUNK_TOKENS
from ..attention import (
    AttentionPatch,
    ExtraOptions,
    MapRecorder,
    prompt_patch,
    uncompiled,
    value_patch,
    with_differentiable_attention,
    with_patch,
    with_replacements,
)
from ..autograd.checkpoints import Checkpoints, with_checkpoints
from ..autograd.foreign import fit_for_autograd, with_same_draws, with_writes_in_place
from ..latent_units import vp_to_k
from . import memory
from .layer_grams import TokenGram, channel_gram


def computed_once(patch: AttentionPatch) -> AttentionPatch:
    """An attn2_patch of values alone, whose result is given again for the very same tensor."""
    value_seen: Tensor | None = None
    result = torch.empty(0)

    def run(
        n: Tensor, context: Tensor, value: Tensor, extra: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal value_seen, result
        if value is not value_seen:
            value_seen, (_, _, result) = value, patch(n, context, value, extra)
        return n, context, result

    return run


def _of_rows(entry: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """A processed prompt of several rows as one of some of them; what has one row is shared."""
    conds = dict(entry["model_conds"])
    pictures = len(conds["c_crossattn"].cond)
    for name, held in conds.items():
        tensor = getattr(held, "cond", None)
        if pictures > 1 and isinstance(tensor, Tensor) and len(tensor) == pictures:
            conds[name] = type(held)(torch.cat([tensor[row : row + 1] for row in rows]))
    return {**entry, "model_conds": conds}


class HostLearningModel:
    """A loaded model as `method/learning.py` wants it: VP latents in, VP noise out.

    A value embedding feeds the values of the source's prompt, a prompt embedding stands in for the
    prompt of `prompt_branch`; `branch` is the one that either acts in. `checkpoints` says which
    blocks are computed twice.
    """

    checkpoints = Checkpoints.OFF

    def __init__(
        self, guider: Any, model_options: dict[str, Any], levels: Levels, sigmas: Tensor,
        layers: tuple[AttentionLayer, ...], prompt_branch: int | None = None,
    ) -> None:
        self.model, self.prompt_branch = guider.inner_model, prompt_branch
        self.branch = CONDITIONAL if prompt_branch is None else prompt_branch
        self.prompts: tuple[Any, ...] = guider.conds["positive"], guider.conds["negative"]
        self.options = with_differentiable_attention(
            with_writes_in_place(guider.model_patcher, uncompiled(model_options)))
        self.patcher, self.fit = guider.model_patcher, fit_for_autograd(guider.model_patcher)
        self.levels, self.layers = levels, layers
        self.sigmas, self.sigma = sigmas, levels.sigmas.float().tolist()
        self._seen: tuple[Tensor, int, Tensor, Tensor] | None = None

    def noise(self, latent: Tensor, level: int) -> Tensor:
        """eps of the branch in which nothing is learnt."""
        return self.noise_of(latent, level, 1 - self.branch, self.options)

    def noise_with(
        self, latent: Tensor, level: int, scale: Tensor, shift: Tensor, maps: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """eps and maps of the other branch under c * s + b."""
        return self._noise_with(self.options, latent, level, scale, shift, maps)

    def maps(self, latent: Tensor, level: int) -> list[Tensor]:
        """The maps of that prompt with nothing learnt."""
        recorder = MapRecorder()
        options = with_replacements(self.options, self.layers, recorder.replacement)
        self.noise_of(latent, level, self.branch, options)
        return recorder.maps

    def guided(
        self, guider: Any, latent: Tensor, level: int, options: dict[str, Any] | None = None
    ) -> Tensor:
        """eps as the host's guider samples, with all that other nodes do to guidance."""
        latent_k, timestep = self._input(latent, level)
        with self.fit, with_same_draws(self.patcher, latent_k.device):
            x0 = guider(latent_k, timestep, options or self.options)
        noise: Tensor = (latent_k - x0) / self.sigma[level]
        return noise

    def weight(self, guidance: float) -> float:
        """The share of `noise_with` in guided noise."""
        return guidance if self.branch == CONDITIONAL else 1 - guidance

    def gradient_scale(self, latent: Tensor) -> float:
        """A power of two near the number of elements that the latent loss is a mean of, in fp16."""
        half = self.model.get_dtype_inference() == torch.float16
        return float(2 ** latent.numel().bit_length()) if half else 1.0

    def of_pictures(self, rows: Sequence[int]) -> HostLearningModel:
        """The same under the prompts of some of the pictures, which hold a row for each of all."""
        model = copy.copy(self)
        model.prompts, model._seen = tuple(
            [_of_rows(entry, rows) for entry in prompt] for prompt in self.prompts), None
        return model

    def token_gram(self, latent: Tensor, level: int) -> Tensor:
        """How strongly tokens [77, 77] of the value input tell, by one pass."""
        seen = TokenGram()
        options = with_replacements(self.options, self.layers, seen.replacement)
        with torch.no_grad():
            self.noise_of(latent, level, self.branch, options)
        return seen.gram

    def channel_gram(self, context: Tensor) -> Tensor:
        """How strongly its channels [d, d] tell, for a prompt [77, d] of any words."""
        return channel_gram(
            self.model.diffusion_model, context.to(self.model.get_dtype_inference()))

    def keeps(
        self, latent: Tensor, width: int, maps: bool, preview: int = 0
    ) -> memory.Estimate:
        """What learning on a latent [1, C, h, w] needs; a preview needs so many bytes."""
        scale, shift = torch.ones(2, CHUNK_TOKENS, width, device=latent.device, requires_grad=True)

        def forward(options: dict[str, Any], side: int) -> list[Tensor]:
            return self._on_corner(side)._noise_with(options, latent, 1, scale, shift, maps)[1]

        return memory.estimate(self.model, forward, self.options, latent, maps, preview)

    def _on_corner(self, side: int) -> HostLearningModel:
        """The same, which sees of a latent, and of what goes with it, one corner."""
        model = copy.copy(self)
        model.prompts = tuple(
            [{**entry, "area": (side, side, 0, 0)} for entry in prompt] for prompt in self.prompts)
        return model

    def _noise_with(
        self, options: dict[str, Any], latent: Tensor, level: int, scale: Tensor, shift: Tensor,
        maps: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        recorder = MapRecorder()
        patch = self._value_patch(scale, shift) if self.prompt_branch is None else \
            prompt_patch(self.prompt_branch, shift)
        options = with_patch(options, "attn2_patch", patch)
        if maps:
            options = with_replacements(options, self.layers, recorder.replacement)
        options = with_checkpoints(options, self.checkpoints, recorder, self.fit)
        return self.noise_of(latent, level, self.branch, options), recorder.maps

    def _value_patch(self, scale: Tensor, shift: Tensor) -> AttentionPatch:
        """c * s + b, computed once for all layers that have the same; but a block that is computed
        again must compute what it did before."""
        patch = value_patch(scale, shift)
        return patch if self.checkpoints == Checkpoints.TRANSFORMERS else computed_once(patch)

    def noise_of(
        self, latent: Tensor, level: int, branch: int, options: dict[str, Any]
    ) -> Tensor:
        """eps under the prompt of one branch."""
        conds = [prompt if i == branch else None for i, prompt in enumerate(self.prompts)]
        latent_k, timestep = self._input(latent, level)
        with self.fit, with_same_draws(self.patcher, latent_k.device):
            x0 = comfy.samplers.calc_cond_batch(self.model, conds, latent_k, timestep, options)
        noise: Tensor = (latent_k - x0[branch]) / self.sigma[level]
        return noise

    def _input(self, latent: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """(k-diffusion latent, sigma [1]), the very same tensors as long as both stay the same."""
        if self._seen is None or self._seen[0] is not latent or self._seen[1] != level:
            self._seen = (latent, level, vp_to_k(latent, self.sigma[level]),
                          self.sigmas[level].expand(len(latent)))
        return self._seen[2:]
