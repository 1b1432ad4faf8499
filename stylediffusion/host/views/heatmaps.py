"""Where words look, in the inversion or while it is sampled, laid over the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...drawing import sheets
from ...method.alignment import TokenizedPrompt
from ...method.data import Trajectory
from ...method.layers import AttentionLayer, supervising_layers
from ...method.local_blend import is_of_shape
from ...method.prompt_to_prompt import Control
from ...prompts import notation
from ...prompts.positions import positions_of
from ...prompts.words import bare, listed, nearest
from .. import text_encoder
from ..attention import COMPILE_KEY, uncompiled, with_replacements
from ..control_nets import control_net_of, under
from ..edit.portions import portion_of
from ..edit.request import Edit
from ..edit.sampling import sample_edits
from ..heat import PromptHeat, background
from ..inputs import one_picture
from ..latent_units import vp_to_host, vp_to_k
from ..model import nodes_on
from ..stage import Stage, on_stage


@dataclass(frozen=True)
class HeatRequest:
    """What to look at, as written: words (none for all), row (0 the source), window of steps."""

    words: str = ""
    target: int = 0
    steps: str = "0-1"


def watched_layers(trajectory: Trajectory) -> tuple[AttentionLayer, ...]:
    """The supervising layers: those whose maps learning and local blend read."""
    return supervising_layers(trajectory.layers, *trajectory.latents.shape[-2:])


def heatmaps(
    edit: Edit, clip: Any, image: Tensor | None, request: HeatRequest
) -> tuple[Tensor, Tensor]:
    """(sheet [1, H, W, 3] with a tile for each word, masks [words, H, W] in 0..1).

    Seen on the trajectory, or while it is sampled, beside no other target, where there is an
    embedding or a control.
    """
    trajectory, steps = edit.trajectory, chosen_steps(request.steps, edit.trajectory.steps)
    prompt = text_encoder.tokenize(clip, prompt_of(trajectory, edit.control, request.target))
    words, columns = chosen_columns(prompt, request.words)
    picture = (
        background(edit.model, trajectory) if image is None else own_picture(image, trajectory))
    sampled = edit.control is not None or edit.embedding is not None
    control, row = edit.control, min(request.target, 1)
    if control is not None:
        control = portion_of(control, [max(request.target - 1, 0)])
    heat = PromptHeat(columns, steps, row, control, trajectory.steps, edit.model.load_device)
    if sampled:
        watch_sampling(replace(edit, control=control), heat)
    else:
        watch_trajectory(edit, heat)
    if heat.sums is None or len(heat.seen) < len(steps):
        raise ValueError(
            f"of the {len(steps)} steps to watch only {len(heat.seen)} came by: another node "
            f"answers for the MODEL in the others (on it are nodes of "
            f"{', '.join(nodes_on(edit.model))}); connect the MODEL from before that node")
    sums = heat.sums.cpu()
    masks = sheets.spread(sums, *picture.shape[:2])
    tiles = [
        (word, f"{100 * share:.1f} % among these words", sheets.overlaid(picture, mask))
        for word, share, mask in zip(words, sheets.shares(sums), masks, strict=True)]
    heading = f"Where words look in {_scene(sampled, request.target)}, "
    heading += _span(steps[0] + 1, steps[-1] + 1, trajectory.steps)
    return sheets.grid(f"\u201c{prompt.text}\u201d", heading, tiles)[None], masks


def _scene(sampled: bool, target: int) -> str:
    if not sampled:
        return "the inversion"
    return f"edit {target}" if target else "the reconstruction"


def _span(first: int, last: int, count: int) -> str:
    return f"step {first} of {count}" if first == last else f"steps {first} to {last} of {count}"


def watch_trajectory(edit: Edit, heat: PromptHeat) -> None:
    """One conditional forward for each chosen step, on the trajectory's latent."""
    edit.warn_of_other_models()
    trajectory = edit.trajectory

    def watch(stage: Stage) -> None:
        options = uncompiled(with_replacements(
            stage.model_options, watched_layers(trajectory), heat.replacement))
        bar = comfy.utils.ProgressBar(len(heat.steps))
        for step in heat.steps:
            entry = trajectory.steps - 1 - step
            latent_vp = trajectory.latents[entry : entry + 1].to(stage.latent_vp)
            latent_k = vp_to_k(latent_vp, float(stage.sigmas[step]))
            stage.denoised(latent_k, stage.sigmas[step], options)
            bar.update(1)

    prompt = under(control_net_of(trajectory), trajectory.positive)
    on_stage(
        edit.model, prompt, prompt, trajectory.levels.sampling_sigmas(),
        vp_to_host(edit.model, trajectory.noise), watch)


def watch_sampling(edit: Edit, heat: PromptHeat) -> None:
    """One sampling run, as the Sample node's at the guidance that was learnt."""
    watched = edit.model.clone()
    watched.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    watched.model_options = with_replacements(
        watched.model_options, watched_layers(edit.trajectory), heat.replacement)
    sample_edits(replace(edit, model=watched))


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
    if not is_of_shape((height, width), (rows, columns)):
        raise ValueError(
            f"the image is {width} x {height} pixels, but the picture that was inverted has "
            f"another shape, {columns} x {rows} cells of its latent; connect that picture, or none"
        )
    return picture
