"""The pictures on the cards of the templates, and the sheet on top of the README: what graphs make.

A graph that wants a download is run on the demo model and a scene that this knows.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from demo import drawing, scenes
from development import examples
from development.examples import EXAMPLES, Prompt, node_of
from development.server import Server, checked
from stylediffusion.drawing import sheets
from training import editing, trials
from training.editing import picture
from training.trials import Trial

SIDE, GAP, BORDER = 512, 8, 6
PAPER, SMALL = (250, 249, 245), 0.015625  # of 1024 x 1024 pixels: 128 x 128
DEMO_MODEL, KEEP, HEAT, SWEEP = (
    "StyleDiffusion" + name for name in ("LoadDemoModel", "KeepPixels", "Heatmaps", "TauSweep"))
LATENTS, COMPARED = ("StyleDiffusionSample", "SamplerCustomAdvanced", SWEEP), "BatchLatentsNode"
# Nodes that a download belongs to, and which of the demo model's outputs stand for theirs.
DOWNLOADED = {"CheckpointLoaderSimple": (0, 1, 2), "LoraLoader": (0, 1),
              "StyleDiffusionLoadCLIPVision": (3,)}
LEFT_OUT = ("ControlNetLoader", "Canny", "PreviewImage")
SAVES = "Save an inversion"
PICKED = [trials.TESTS[i] for i in (11, 9, 6, 2, 3, 1, 5, 4, 8, 0, 10, 7)]
PHOTOS = dict(zip(filter(examples.models, EXAMPLES), PICKED, strict=False))
SHEET_ROWS = [trials.TESTS[i] for i in (11, 9, 2)]
PLACE, STYLES = "meadow", {"painting": "sketch", "sketch": "painting"}
# For another place the layout is not held, as in the template of many edits.
WINDOWS = "; ; tau_v: 0.5, tau_s: 0, tau_c: 0.3; tau_v: 0.2, tau_c: 0.6"


def write_card(server: Server, name: str) -> None:
    """The picture beside an example: what it is given, and what it makes of that."""
    before, after = results(server, name)
    card(before, after).save(examples.FOLDER / f"{name}.jpg", quality=88)


def results(server: Server, name: str) -> tuple[Image.Image, list[Image.Image]]:
    """(the picture before, those after) of an example, run on the server."""
    prompt = examples.prompt(name)
    if name in PHOTOS:
        prompt = on_demo_model(prompt, PHOTOS[name], server)
    kinds = {node["class_type"] for node in prompt.values()}
    shown = run(server, with_results(prompt, kinds))
    after = shown["after"] if kinds & {KEEP, HEAT, SWEEP} else shown["after"][1:]
    before = shown.get("before", shown["after"])[0]
    if HEAT in kinds:
        seen = tensor(before)
        after = [picture(sheets.overlaid(seen, tensor(mask)[..., 0])) for mask in after]
    if SWEEP in kinds:
        after = [after[0], after[2 * len(after) // 3], after[-1]]  # on the sheet's diagonal
    return before, [file_picture()] if name == SAVES else after


def with_results(prompt: Prompt, kinds: set[str]) -> Prompt:
    """A graph that also shows `before`, if a picture is encoded in it, and `after`."""
    found = dict(prompt)

    def add(name: str, kind: str, **inputs: Any) -> list[Any]:
        found[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]

    if "VAEEncode" in kinds:
        encoded = prompt[node_of(prompt, "VAEEncode")]["inputs"]
        add("before", "PreviewImage", images=encoded["pixels"])
    if KEEP in kinds:
        after = [node_of(prompt, KEEP), 0]
    elif HEAT in kinds:
        heat = next(key for key, node in prompt.items() if node["class_type"] == HEAT)
        after = add("masks", "MaskToImage", mask=[heat, 1])
    elif "VAEDecode" in kinds:
        after = [node_of(prompt, "VAEDecode"), 0]
    else:
        painted = [key for wanted in ([COMPARED], LATENTS) for key, node in prompt.items()
                   if node["class_type"] in wanted]
        latent = [*painted, node_of(prompt, "VAEEncode")][0]
        after = add("decoded", "VAEDecode", samples=[latent, 0], vae=[loader_of(prompt), 2])
    add("after", "PreviewImage", images=after)
    return found


def loader_of(prompt: Prompt) -> str:
    """The id of the node that loads the demo model."""
    return node_of(prompt, DEMO_MODEL)


def on_demo_model(prompt: Prompt, trial: Trial, server: Server) -> Prompt:
    """A graph for photos on the demo model, with a trial's scene and its edit to a new colour."""
    loader = node_of(prompt, "CheckpointLoaderSimple")
    stands_for = {(key, i): [loader, output] for key, node in prompt.items()
                  for i, output in enumerate(DOWNLOADED.get(node["class_type"], ()))}
    left_out = {key for key, node in prompt.items() if node["class_type"] in LEFT_OUT}
    source, edit = scenes.caption(trial.scene), scenes.caption(trial.edits[0])
    demo = examples.settings(editing.DEMO)
    blend = dict(zip(("blend_threshold", "blend_start", "blend_pooling"), demo.blend, strict=True))
    written = {"prompt": source, "targets": edit, "megapixels": SMALL,
               "blend_words": trial.blend_lists[0],
               "guidance": demo.guidance, "image": _uploaded(server, trial), **blend}
    found: Prompt = {}
    for key, node in prompt.items():
        inputs = {name: stands_for.get(tuple(value), value) if isinstance(value, list)
                  else written.get(name, value) for name, value in node["inputs"].items()
                  if not (isinstance(value, list) and value[0] in left_out)}
        if key not in left_out and (key == loader or node["class_type"] not in DOWNLOADED):
            found[key] = {"class_type": node["class_type"], "inputs": inputs}
    found[loader] = {"class_type": DEMO_MODEL, "inputs": {}}
    return found


def _uploaded(server: Server, trial: Trial) -> str:
    written = io.BytesIO()
    drawing.draw(trial.scene).save(written, "PNG")
    return server.upload_image(f"{trial.object}.png", written.getvalue())


def run(server: Server, prompt: Prompt) -> dict[str, list[Image.Image]]:
    """What each node of a graph shows, by its id."""
    images = server.images(checked(server.wait(server.queue(prompt))))
    return {key: [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
            for key, files in images.items()}


def tensor(image: Image.Image) -> Tensor:
    """An image as a picture [H, W, 3]."""
    return sheets.picture_of(image)


def card(before: Image.Image, after: Sequence[Image.Image]) -> Image.Image:
    """A square: the picture before at the top left, one after over it; or up to three beside it."""
    found = Image.new("RGB", (SIDE, SIDE), PAPER)
    if len(after) == 1:
        side = SIDE * 5 // 8
        found.paste(fitted(before, side), (0, 0))
        framed = Image.new("RGB", (side, side), PAPER)
        framed.paste(fitted(after[0], side - BORDER), (BORDER, BORDER))
        found.paste(framed, (SIDE - side, SIDE - side))
        return found
    side = (SIDE - GAP) // 2
    far = SIDE - side
    places = [(0, 0), (far, 0), (0, far), (far, far)]
    if len(after) == 2:
        places = [(far // 2, 0), (0, far), (far, far)]
    for image, place in zip([before, *after], places, strict=False):
        found.paste(fitted(image, side), place)
    return found


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image as a square of this side."""
    short = min(image.size)
    left, top = ((length - short) // 2 for length in image.size)
    square = image.crop((left, top, left + short, top + short))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def file_picture() -> Image.Image:
    """A sheet of paper, for what is saved."""
    found = Image.new("RGB", (SIDE, SIDE), (225, 228, 235))
    pen = ImageDraw.Draw(found)
    pen.rounded_rectangle((110, 60, 402, 452), 24, (255, 255, 255), (110, 110, 118), 6)
    for y, text in ((190, "inversion"), (250, ".safetensors")):
        pen.text((SIDE // 2, y), text, (24, 24, 28), sheets.Layout(1000, 1000).font(22), "mm")
    return found


def edits_sheet(server: Server) -> Image.Image:
    """Pictures beside edits of them, a row each: what the pack is for."""
    rows = []
    for trial in SHEET_ROWS:
        edits = [*trial.edits, scenes.edited(trial.scene, place=PLACE),
                 scenes.edited(trial.scene, style=STYLES[trial.style])]
        captions = list(map(scenes.caption, (trial.scene, *edits)))
        prompt = editing.for_trial(examples.leading_to(examples.prompt(editing.DEMO), KEEP), trial)
        prompt[node_of(prompt, "StyleDiffusionP2PlusController")]["inputs"].update(
            targets="\n".join(captions[1:]), windows=WINDOWS,
            blend_words="; ".join([*trial.blend_lists, "", ""]))
        shown = run(server, with_results(prompt, {KEEP, "VAEEncode"}))
        images = map(tensor, [*shown["before"], *shown["after"]])
        rows.append(("", [(text, "", image) for text, image in zip(captions, images, strict=True)]))
    return picture(sheets.sheet("", rows))
