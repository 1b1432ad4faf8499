"""Seeing what happened: where words look, and source, reconstruction and edits side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
import torch.nn.functional as F
from torch import Tensor

from ...drawing import sheets
from ...drawing.metrics import psnr
from ...method.alignment import TokenizedPrompt
from ...method.data import Trajectory, ValueEmbedding
from ...method.layers import AttentionLayer, supervising_layers
from ...method.prompt_to_prompt import Control
from ...method.schedule import vp_to_k
from ...prompts import notation
from ...prompts.positions import positions_of
from ...prompts.words import bare, listed, nearest
from .. import text_encoder
from ..attention import uncompiled, with_replacements
from ..edit.sampling import sample_edits
from ..inputs import MODEL_OVERFLOW, decoded, pictures_of, require_given, samples_of
from ..invert.inversion import to_host
from ..model import ModelPatcher, require_compatible, warn_if_other
from .heat import PromptHeat


@dataclass(frozen=True)
class HeatWishes:
    """What to look at, as written: words (none for all), row (0 the source), window of steps."""

    words: str = ""
    target: int = 0
    steps: str = "0-1"


class TrajectoryViewer(comfy.samplers.Sampler):
    """Sees the latents of a trajectory again, each at the level its entry was recorded at."""

    def __init__(self, trajectory: Trajectory, heat: PromptHeat) -> None:
        self.trajectory, self.heat = trajectory, heat

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
        noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the guider with the model ready; returns the latent unchanged."""
        layers = watched_layers(self.trajectory)
        options = uncompiled(with_replacements(
            extra_args["model_options"], layers, self.heat.replacement))
        bar = comfy.utils.ProgressBar(len(self.heat.steps))
        for step in self.heat.steps:
            entry = self.trajectory.steps - 1 - step
            latent = self.trajectory.latents[entry : entry + 1].to(latent_image)
            x = vp_to_k(latent, float(sigmas[step]))
            model_wrap(x, sigmas[step].expand(1), **{**extra_args, "model_options": options})
            bar.update(1)
        return latent_image


def watched_layers(trajectory: Trajectory) -> tuple[AttentionLayer, ...]:
    """The supervising layers: those whose maps learning and local blend read."""
    return supervising_layers(trajectory.layers, *trajectory.latents.shape[-2:])


def heatmaps(
    model: ModelPatcher, clip: Any, trajectory: Trajectory, embedding: ValueEmbedding | None,
    control: Control | None, image: Tensor | None, wishes: HeatWishes,
) -> tuple[Tensor, Tensor]:
    """(sheet [1, H, W, 3] with a tile for each word, masks [words, H, W] in 0..1).

    Seen on the trajectory, or while it is sampled where there is an embedding or a control.
    """
    prompt = text_encoder.tokenize(clip, prompt_of(trajectory, control, wishes.target))
    words, columns = chosen_columns(prompt, wishes.words)
    steps = chosen_steps(wishes.steps, trajectory.steps)
    picture = background(model, trajectory) if image is None else own_picture(image, trajectory)
    sampled = control is not None or embedding is not None
    watch = PromptHeat(
        columns, steps, wishes.target, control, trajectory.steps, model.load_device)
    if sampled:
        watch_sampling(model, trajectory, embedding, control, watch)
    else:
        watch_trajectory(model, trajectory, watch)
    assert watch.sums is not None
    heat = watch.sums.cpu()
    masks = sheets.spread(heat, *picture.shape[:2])
    tiles = [
        (word, f"{100 * share:.1f} % among these words", sheets.overlaid(picture, mask))
        for word, share, mask in zip(words, sheets.shares(heat), masks, strict=True)]
    heading = f"Where words look in {_scene(sampled, wishes.target)}, "
    heading += _span(steps[0] + 1, steps[-1] + 1, trajectory.steps)
    return sheets.grid(f"\u201c{prompt.text}\u201d", heading, tiles)[None], masks


def _scene(sampled: bool, target: int) -> str:
    if not sampled:
        return "the inversion"
    return f"edit {target}" if target else "the reconstruction"


def _span(first: int, last: int, count: int) -> str:
    return f"step {first} of {count}" if first == last else f"steps {first} to {last} of {count}"


def watch_trajectory(model: ModelPatcher, trajectory: Trajectory, heat: PromptHeat) -> None:
    """One conditional forward for each chosen step, on the latent of the trajectory."""
    require_compatible(model, trajectory)
    warn_if_other(model, trajectory.fingerprint, "the trajectory")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(trajectory.positive, trajectory.positive)
    guider.set_cfg(1.0)
    start = to_host(model, trajectory.noise)
    guider.sample(
        torch.zeros_like(start), start, TrajectoryViewer(trajectory, heat),
        trajectory.levels.sampling_sigmas(), disable_pbar=True)


def watch_sampling(
    model: ModelPatcher, trajectory: Trajectory, embedding: ValueEmbedding | None,
    control: Control | None, heat: PromptHeat,
) -> None:
    """One sampling run, as the Sample node's at the guidance that was learnt."""
    watched = model.clone()
    watched.model_options = with_replacements(
        watched.model_options, watched_layers(trajectory), heat.replacement)
    sample_edits(watched, trajectory, embedding, control, 0.0)


def prompt_of(trajectory: Trajectory, control: Control | None, target: int) -> str:
    """The prompt of a row: 0 the source's, else that line of the controller's targets."""
    if target == 0:
        return trajectory.prompt
    if control is None:
        raise ValueError(
            f"target is {target}, but no control is connected; connect P2Plus Controller, or set "
            "target to 0 for the source"
        )
    if target > len(control.targets):
        raise ValueError(
            f"target is {target}, but the number of targets in the control is "
            f"{len(control.targets)}; set target to a line of the controller, or to 0 for the "
            "source"
        )
    return control.targets[target - 1].prompt


def chosen_columns(prompt: TokenizedPrompt, written: str) -> tuple[list[str], Tensor]:
    """(words, fp32 [T, words]: 1 at each word's tokens). Nothing written means every word, once.

    Between commas several words are one phrase; without a comma each stands for itself.
    Raises ValueError for a word that is not in the prompt.
    """
    once: dict[str, str] = {}
    phrases = notation.phrases(written)
    asked = phrases if len(phrases) > 1 else written.split()
    for word in asked or listed(typed.text for typed in prompt.words):
        once.setdefault(bare(word), word)
    chosen = list(once.values())
    columns = torch.zeros(len(prompt.token_ids), len(chosen))
    for i, word in enumerate(chosen):
        positions = positions_of(word, prompt)
        if not positions:
            near = nearest(word, [prompt.text])
            hint = f"; did you mean '{near}'" if near else ""
            raise ValueError(
                f"'{word}', written in words, is not a word of '{prompt.text}'{hint}; write it as "
                "the prompt does, or leave words empty to see them all"
            )
        columns[list(positions), i] = 1
    return chosen, columns


def chosen_steps(written: str, steps: int) -> list[int]:
    """The sampling steps inside a window. Raises ValueError where there is none."""
    window = notation.window(written, "steps")
    chosen = [step for step in range(steps) if window.holds_value(step, steps)]
    if not chosen:
        raise ValueError(
            f"the window '{written}' of steps holds none of the trajectory's {steps}; widen it, "
            "for example to 0-1"
        )
    return chosen


def own_picture(image: Tensor, trajectory: Trajectory) -> Tensor:
    """The picture [H, W, 3] of an IMAGE; raises ValueError for several, or for another shape."""
    picture = one_picture(image)
    (height, width), (rows, columns) = picture.shape[:2], trajectory.latents.shape[-2:]
    # What the VAE crops is less than a cell, so some size of a cell must fit both sides.
    if max(height / (rows + 1), width / (columns + 1)) >= min(height / rows, width / columns):
        raise ValueError(
            f"the image is {width} x {height}, but the latent of the picture that was inverted is "
            f"{columns} x {rows}, another shape; connect the picture that was inverted, or none"
        )
    return picture


def one_picture(image: Tensor | None) -> Tensor:
    """The only picture [H, W, 3] of an IMAGE; raises ValueError where it holds another number.

    And for one without cells, without colours, or with numbers that are not finite.
    """
    pictures = pictures_of(image)
    if len(pictures) > 1:
        raise ValueError(
            f"the image holds {len(pictures)} pictures, but one is needed: the one that was "
            "inverted; pick it with ImageFromBatch"
        )
    return pictures[0, ..., :3].float().cpu()


def background(model: ModelPatcher, trajectory: Trajectory) -> Tensor:
    """The clean latent in the colours of the host's previews, at the picture's size; or grey."""
    form = model.get_model_object("latent_format")
    height, width = (n * form.spacial_downscale_ratio for n in trajectory.latents.shape[-2:])
    if form.latent_rgb_factors is None:
        return torch.full((height, width, 3), 0.5)
    previewer = latent_preview.Latent2RGBPreviewer(
        form.latent_rgb_factors, form.latent_rgb_factors_bias, form.latent_rgb_factors_reshape)
    seen = sheets.picture_of(previewer.decode_latent_to_preview(trajectory.latents[:1].clone()))
    smooth = F.interpolate(seen.movedim(-1, 0)[None], (height, width), mode="bilinear")
    return smooth[0].movedim(0, -1)


def compare(
    image: Tensor | None, vae: Any, latent: dict[str, Any] | None, control: Control | None
) -> tuple[Tensor, str]:
    """(sheet [1, H, W, 3] of source, reconstruction and edits, the decibels in words).

    Raises ValueError for a picture or a latent that cannot be shown, or not beside each other.
    """
    require_given(vae, "VAE", "Load Checkpoint or Load VAE")
    samples = samples_of(latent, "Sample", MODEL_OVERFLOW)
    labels = edit_labels(len(samples) - 1, control)
    one_picture(image)  # before the VAE is handed it
    source = vae.vae_encode_crop_pixels(image)[..., :3].float().cpu()
    painted = decoded(vae, samples)
    require_same_size(source, painted)
    reached = psnr(painted[:1], source)
    ceiling = psnr(decoded(vae, vae.encode(image)), source)
    tiles = [("source", "", source[0]),
             ("reconstruction", f"{reached:.2f} dB (ceiling {ceiling:.2f} dB)", painted[0]),
             *((label, "", edit) for label, edit in zip(labels, painted[1:], strict=True))]
    title = "" if control is None else f"\u201c{control.source_prompt}\u201d"
    report = f"reconstruction {reached:.2f} dB, ceiling (VAE alone) {ceiling:.2f} dB"
    return sheets.grid(title, "", tiles)[None], report


def edit_labels(count: int, control: Control | None) -> list[str]:
    """A name for each edit: its prompt, or its number where there is no control.

    Raises ValueError where the control has another number of targets.
    """
    if control is None:
        return [f"edit {i + 1}" for i in range(count)]
    if len(control.targets) != count:
        raise ValueError(
            f"the number of targets in the control is {len(control.targets)}, but the number of "
            f"edits in the latent, after the reconstruction, is {count}; connect the control that "
            "Sample was given, or none"
        )
    return [f"\u201c{target.prompt}\u201d" for target in control.targets]


def require_same_size(source: Tensor, painted: Tensor) -> None:
    """Raise ValueError unless an IMAGE has the size of a decoded latent."""
    own, wanted = (f"{found.shape[2]} x {found.shape[1]}" for found in (source, painted))
    if own != wanted:
        raise ValueError(
            f"the image is {own}, but the decoded latent is {wanted}; connect the picture that "
            "was inverted, at the size it was encoded at"
        )
