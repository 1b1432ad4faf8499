"""Sampling the source and its edits in one batch: a GUIDER for the host's samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...method.data import Trajectory
from ...method.edit_plan import make_plan
from ...method.layers import supervising_layers
from ...method.prompt_to_prompt import Control
from ..control_nets import control_net_of, under
from ..latent_units import k_to_vp, vp_to_k
from ..text_encoder import stacked
from .between_steps import BetweenSteps, stepwise
from .patches import EditRun
from .portions import joined, portion_of, portions
from .request import Edit

Callback = Callable[[int, Tensor, Tensor, int], None]


class P2PlusGuider(comfy.samplers.CFGGuider):
    """The host's guider on a batch whose row 0 is the source and whose other rows are the targets.

    One latent in (k-diffusion units at the first sigma), 1 + targets out (VP). Targets that do not
    fit into one batch run in portions, each beside the source. Patches are there while a run lasts;
    `masks` [targets, 1, h, w] are the last ones the edits were blended by, on the CPU.
    """

    masks: Tensor | None = None
    run: EditRun | None = None

    def __init__(self, edit: Edit) -> None:
        super().__init__(edit.model)
        self.edit, self.trajectory, self.control = edit, edit.trajectory, edit.control
        self.set_prompts(edit.control)
        self.set_cfg(edit.cfg)

    def set_prompts(self, control: Control | None) -> None:
        """The source's prompt and those of a control's targets, a row each."""
        targets = () if control is None else control.targets
        prompts = [self.trajectory.positive, *(target.conditioning for target in targets)]
        control_net = control_net_of(self.trajectory)
        self.set_conds(
            under(control_net, stacked(prompts)), under(control_net, self.trajectory.negative))

    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: comfy.samplers.Sampler, sigmas: Tensor,
        denoise_mask: Tensor | None = None, callback: Callback | None = None,
        disable_pbar: bool = False, seed: int | None = None,
    ) -> Tensor:
        """As the host's guider; the latent is shared by all rows.

        Raises ValueError for a latent, noise, sigmas or a sampler that are not of this trajectory,
        and for a noise mask.
        """
        if denoise_mask is not None:
            raise ValueError(
                "the latent has a noise mask, outside which the host would put the trajectory's "
                "noise; take Set Latent Noise Mask away, and give the mask to P2Plus Controller"
            )
        require_size(latent_image, self.trajectory)
        require_own_road(self.trajectory, noise, sigmas)
        chosen = portions(self.model_patcher, self.trajectory, self.control)
        runs: list[tuple[Tensor, Tensor]] = []
        seen: list[Tensor] = []
        for place, targets in enumerate(chosen):
            follow = _following(callback, place, chosen, seen)
            runs.append(self._sample(
                portion_of(self.control, targets), noise, latent_image, sampler, sigmas, follow,
                disable_pbar, seed))
        blends = self.control is not None and self.control.blends
        self.masks = joined([mask for _, mask in runs], chosen) if blends else None
        source = runs[0][0][:1]
        return torch.cat([source, joined([latents[1:] for latents, _ in runs], chosen)])

    def _sample(
        self, control: Control | None, noise: Tensor, latent: Tensor,
        sampler: comfy.samplers.Sampler, sigmas: Tensor, callback: Callback, disable_pbar: bool,
        seed: int | None,
    ) -> tuple[Tensor, Tensor]:
        """VP latents of the source and some targets, and the masks these were blended by."""
        steps, device = len(sigmas) - 1, self.model_patcher.load_device
        layers = self.trajectory.layers
        plan = make_plan(control, self.edit.embedding, steps, device)
        run = EditRun(plan, layers, supervising_layers(layers, *latent.shape[-2:]))
        source_k = source_latents(self.trajectory).to(device) if self.edit.exact_source else None
        after = BetweenSteps(run, control, source_k)
        if self.edit.exact_source or (self.control is not None and self.control.blends):
            sampler = stepwise(sampler, run, after)

        def counted(step: int, x0: Tensor, latents_k: Tensor, total: int) -> None:
            run.step = min(step + 1, steps - 1)
            callback(step, x0, latents_k, total)

        self.set_prompts(control)
        self.run = run
        torch.manual_seed(seed or 0)  # as the host's KSampler does for nodes that draw
        try:
            latents_k: Tensor = super().sample(
                noise.expand(plan.rows, -1, -1, -1).clone(),
                latent.expand(plan.rows, -1, -1, -1).clone(),
                sampler, sigmas, None, counted, disable_pbar, seed,
            )
        finally:
            self.run = None
        return k_to_vp(latents_k, float(sigmas[-1])), after.shown(latents_k)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The host's guided prediction, with the patches of the step that the run is at."""
        options = model_options or {}
        if self.run is not None:
            if not self.run.positive:
                self.run.positive = frozenset(cond["uuid"] for cond in self.conds["positive"])
            options = self.run.options(options)
        denoised: Tensor = super().predict_noise(x, timestep, options, seed)
        return denoised


def _following(
    callback: Callback | None, place: int, chosen: list[list[int]], seen: list[Tensor]
) -> Callback:
    """A callback for one of several portions: its share of all steps; at the end all rows."""
    count = len(chosen)

    def follow(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        if callback is None:
            return
        if step + 1 == total and count > 1:
            seen.append(x0[1:])
            x0 = torch.cat([x0[:1], joined(seen, chosen[: place + 1])])
        callback(step + place * total, x0, x, count * total)

    return follow


def require_own_road(trajectory: Trajectory, noise: Tensor, sigmas: Tensor) -> None:
    """Raise ValueError unless sampling goes back over the trajectory's levels without new noise."""
    expected = trajectory.levels.sampling_sigmas()
    if sigmas.shape != expected.shape or not torch.allclose(sigmas.cpu(), expected):
        raise ValueError(
            f"the sigmas are {len(sigmas) - 1} steps of another schedule, but the trajectory was "
            f"walked in {len(expected) - 1} steps of its own; connect the sigmas of P2Plus Guider"
        )
    if noise.any():
        raise ValueError(
            "noise would be added to the trajectory, which ends in noise already; connect the "
            "noise of P2Plus Guider, or DisableNoise"
        )


def require_size(latent: Tensor, trajectory: Trajectory) -> None:
    """Raise ValueError unless a latent [1, C, h, w] has the trajectory's channels and size."""
    channels, height, width = trajectory.latents.shape[1:]
    if latent.shape != (1, channels, height, width):
        raise ValueError(
            f"the latent is {' x '.join(map(str, latent.shape))}, but the trajectory's latents are "
            f"1 x {channels} x {height} x {width}; connect the latent of the picture that was "
            "inverted, or invert this one"
        )


def source_latents(trajectory: Trajectory) -> Tensor:
    """What row 0 should be after each sampling step: k-diffusion latents [N, C, h, w]."""
    sigmas = trajectory.levels.sigmas[:-1].to(torch.float32).view(-1, 1, 1, 1)
    return vp_to_k(trajectory.latents[:-1], sigmas).flip(0)
