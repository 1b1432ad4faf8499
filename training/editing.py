"""The demo graph run on the server for a trial, and judged beside plain DDIM and true edits."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demo import drawing, scenes
from development import examples
from development.examples import Prompt, node_of
from development.server import Progress, Server
from stylediffusion.measures.pixels import psnr

from . import judge
from .trials import Trial

DEMO = "Demo"
KEPT = "StyleDiffusionKeepPixels"
DECIMALS = 2


@dataclass(frozen=True)
class Pictures:
    """What one trial gave, each picture [H, W, 3] in 0..1."""

    source: Tensor
    round_trip: Tensor
    reconstruction: Tensor
    ddim_reconstruction: Tensor
    targets: tuple[str, ...]
    true_edits: tuple[Tensor, ...]
    edits: tuple[Tensor, ...]
    laid_in: tuple[Tensor, ...]
    ddim_edits: tuple[Tensor, ...]


def for_trial(prompt: Prompt, trial: Trial) -> Prompt:
    """The demo graph with another scene, whose caption it follows, and its two edits."""
    changed = copy.deepcopy(prompt)
    scene = changed[node_of(changed, "StyleDiffusionDemoScene")]["inputs"]
    scene.update(object=trial.object, colour=trial.colour, place=trial.place, style=trial.style,
                 seed=trial.seed)
    control = changed[node_of(changed, "StyleDiffusionP2PlusController")]["inputs"]
    control["targets"] = "\n".join(scenes.caption(edit) for edit in trial.edits)
    control["blend_words"] = trial.blend_words
    return changed


def with_comparisons(prompt: Prompt, trial: Trial) -> Prompt:
    """The graph and beside it the source, its VAE round trip, plain DDIM and the true edits."""
    compared = copy.deepcopy(prompt)
    scene, encode, sample, decode = (node_of(prompt, kind) for kind in (
        "StyleDiffusionDemoScene", "VAEEncode", "StyleDiffusionSample", "VAEDecode"))

    def add(name: str, like: str, **inputs: Any) -> list[Any]:
        node = copy.deepcopy(prompt[like])
        node["inputs"].update(inputs)
        compared[name] = {**node, "_meta": {"title": name}}
        return [name, 0]

    def show(name: str, images: list[Any]) -> None:
        compared[name] = {"class_type": "PreviewImage", "inputs": {"images": images}}

    plain = add("plain DDIM", sample)
    del compared["plain DDIM"]["inputs"]["value_embedding"]
    compared["plain DDIM"]["inputs"]["guidance"] = examples.settings(DEMO).guidance
    show("source", [scene, 0])
    show("round trip", add("decoded source", decode, samples=[encode, 0]))
    show("ddim", add("decoded DDIM", decode, samples=plain))
    show("laid in", [node_of(prompt, KEPT), 0])
    show("true 0", add("true colour edit", scene, colour=trial.new_colour))
    show("true 1", add("true object edit", scene, object=trial.new_object))
    return compared


def run(server: Server, trial: Trial, progress: Progress | None = None) -> Pictures:
    """Queue the shipped graph for a trial, then the comparisons, which share its cached parts."""
    whole = for_trial(examples.prompt(DEMO), trial)
    prompt = examples.leading_to(whole, "SaveImage")
    control = prompt[node_of(prompt, "StyleDiffusionP2PlusController")]["inputs"]
    first = server.wait(server.queue(prompt, examples.workflow(DEMO)), progress)
    painted = decoded(server.images(first)[node_of(prompt, "SaveImage")])
    compared = with_comparisons(examples.leading_to(whole, KEPT), trial)
    second = server.images(server.wait(server.queue(compared), progress))
    plain = decoded(second["ddim"])
    return Pictures(
        source=decoded(second["source"])[0],
        round_trip=decoded(second["round trip"])[0],
        reconstruction=painted[0],
        ddim_reconstruction=plain[0],
        targets=tuple(control["targets"].splitlines()),
        true_edits=(decoded(second["true 0"])[0], decoded(second["true 1"])[0]),
        edits=tuple(painted[1:]),
        laid_in=tuple(decoded(second["laid in"])),
        ddim_edits=tuple(plain[1:]),
    )


def decoded(files: Sequence[bytes]) -> list[Tensor]:
    """Image files as pictures [H, W, 3] in 0..1."""
    images = (Image.open(io.BytesIO(data)).convert("RGB") for data in files)
    return [torch.from_numpy(np.asarray(image).copy()).float() / 255 for image in images]


def picture(image: Tensor) -> Image.Image:
    """A picture [H, W, 3] in 0..1 as an image."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().numpy())


def measure(pictures: Pictures) -> dict[str, Any]:
    """All numbers of a trial, in dB; `inside` is where the true edit differs from the source."""
    source = pictures.source
    seen = judge.load()
    edits = []
    rows = zip(pictures.targets, pictures.true_edits, pictures.edits, pictures.laid_in,
               pictures.ddim_edits, strict=True)
    for target, true, edit, laid_in, plain in rows:
        changed = drawing.changed_mask(picture(source), picture(true))
        inside = torch.from_numpy(changed)
        names = judge.name(seen, torch.stack([true, edit, plain]).permute(0, 3, 1, 2))
        edits.append({
            "target": target,
            "psnr_inside": decibels(edit, true, inside),
            "source_psnr_inside": decibels(source, true, inside),
            "ddim_psnr_inside": decibels(plain, true, inside),
            "psnr_outside": decibels(edit, true, ~inside),
            "laid_in_psnr_inside": decibels(laid_in, true, inside),
            "laid_in_psnr_outside": decibels(laid_in, true, ~inside),
            "ceiling_psnr_outside": decibels(pictures.round_trip, source, ~inside),
            "ddim_psnr_outside": decibels(plain, true, ~inside),
            "true_judged": names[0], "judged": names[1], "ddim_judged": names[2],
        })
    return {
        "vae_psnr": decibels(pictures.round_trip, source),
        "reconstruction_psnr": decibels(pictures.reconstruction, source),
        "ddim_reconstruction_psnr": decibels(pictures.ddim_reconstruction, source),
        "edits": edits,
    }


def decibels(found: Tensor, wanted: Tensor, where: Tensor | None = None) -> float:
    """PSNR of one picture [H, W, 3], or of its pixels `where` [H, W], in hundredths of a dB."""
    if where is not None:
        found, wanted = found[where], wanted[where]
    (value,) = psnr(wanted.reshape(1, 1, -1, 3), found.reshape(1, 1, -1, 3))
    assert value is not None
    return round(value, DECIMALS)
