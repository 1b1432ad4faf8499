"""The example graphs of workflows/, drawn from the host's node definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import scenes, trials

from .drawing import Drawing
from .parts import (
    CONTROL,
    CONTROL_NET,
    EDIT,
    LORA,
    MODEL,
    PHOTO_EDIT,
    PHOTO_PROMPT,
    REGION,
    SAMPLE,
    TAUS,
    VISION,
    demo_parts,
    drawing_edits,
    learnt,
    photo_control,
    photo_parts,
    sampled,
)
from .places import ROOT

FOLDER = ROOT / "workflows"
WHERE_IT_SHOWS = "*blend_words* says where the edit shows: name what changes there, or empty it."
SAVED = "StyleDiffusion/inversion_00001_.inversion.safetensors [output]"


def demo_edit(drawing: Drawing) -> None:
    """The demo: one picture, two edits."""
    model, scene = demo_parts(
        drawing, "**Press Run.** The picture is inverted, its value embedding is learnt, and both "
        "edits are painted beside the reconstruction.\n\n**Edit again:** write other lines into "
        "*targets*, name what changes in *blend_words* (or empty it, for a change of the whole "
        "picture), and press Run. Inversion and learning are not repeated.\n\n**Your own photo:** "
        "open the template *photo_edit*.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/edit")


def photo_edit(drawing: Drawing) -> None:
    """A photo of one's own on SD1.5."""
    model, picture = photo_parts(
        drawing, "Choose your photo in *Load Image* and describe it in *DDIM Invert*. Then write "
        "the edit into *targets*: the same sentence with other words, one edit a line. "
        f"{WHERE_IT_SHOWS}\n\nThe checkpoint is Stable Diffusion 1.5; an SD2.x or SDXL checkpoint "
        "does too: for SDXL set *megapixels* to 1. Learning takes most of the first run, and is "
        "done once for each photo.")
    trajectory, embedding = learnt(drawing, model, picture, prompt=PHOTO_PROMPT)
    control = photo_control(drawing, model, trajectory, PHOTO_EDIT)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/photo")


def photo_edit_exact(drawing: Drawing) -> None:
    """The same as in the paper: mapping networks on the tokens of CLIP ViT-B/16."""
    model, picture = photo_parts(
        drawing, "As in the paper: mapping networks learn from what CLIP ViT-B/16 sees in your "
        "photo, by the authors' schedule. It takes several times as long as *photo_edit* and, on "
        "the demo model, comes no nearer to the picture; use it to compare, or for research.\n\n"
        f"{WHERE_IT_SHOWS}")
    vision = drawing.add("StyleDiffusionLoadCLIPVision", None, 0, [VISION],
                         clip_name=VISION["name"])
    trajectory, embedding = learnt(
        drawing, model, picture, {"clip_vision": vision["clip_vision"], "image": picture},
        prompt=PHOTO_PROMPT, preset="exact")
    control = photo_control(drawing, model, trajectory, PHOTO_EDIT)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/photo")


def photo_edit_lora(drawing: Drawing) -> None:
    """A photo on SD1.5 with a LoRA."""
    loaded, picture = photo_parts(
        drawing, "The LoRA is part of the model from the start: invert, learn and sample with the "
        "same MODEL. Put the name of a LoRA of yours into *Load LoRA*.\n\n" + WHERE_IT_SHOWS)
    lora = drawing.add("LoraLoader", {"model": loaded["MODEL"], "clip": loaded["CLIP"]},
                       lora_name=LORA, strength_model=0.8, strength_clip=0.8)
    model = {**loaded, "MODEL": lora["MODEL"], "CLIP": lora["CLIP"]}
    trajectory, embedding = learnt(drawing, model, picture, prompt=PHOTO_PROMPT)
    control = photo_control(drawing, model, trajectory, PHOTO_EDIT)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/lora")


def photo_edit_controlnet(drawing: Drawing) -> None:
    """A photo on SD1.5 whose edges a ControlNet holds."""
    model, picture = photo_parts(
        drawing, "Edits keep the edges of your photo: a ControlNet reads them, and inversion, "
        "learning and edits all run under it. Look at the edges, and set the thresholds of *Detect "
        "Edges* so that what may change has few. With any other ControlNet, put what makes its "
        "hint in the place of *Detect Edges*.\n\n" + WHERE_IT_SHOWS)
    drawing.column("ControlNet", 340)
    loaded = drawing.add("ControlNetLoader", None, 0, [CONTROL_NET],
                         control_net_name=CONTROL_NET["name"])
    edges = drawing.add("Canny", {"image": picture}, low_threshold=0.2, high_threshold=0.5)
    drawing.add("PreviewImage", {"images": edges["IMAGE"]})
    trajectory, embedding = learnt(
        drawing, model, picture, None,
        {"control_net": loaded["CONTROL_NET"], "control_image": edges["IMAGE"]},
        prompt=PHOTO_PROMPT)
    control = photo_control(drawing, model, trajectory, PHOTO_EDIT)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/controlnet")


def several_edits(drawing: Drawing) -> None:
    """Four edits in one batch, on one sheet."""
    model, scene = demo_parts(
        drawing, "One edit a line in *targets*: all are painted in one batch, beside the source, "
        "which is computed once. Words and windows take one part a line between semicolons; "
        "here only the first two edits are kept to a region.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    lines = [scenes.caption(edit) for edit in (
        *trials.DEMO.edits, scenes.edited(trials.DEMO.scene, place="snow"),
        scenes.edited(trials.DEMO.scene, style="sketch"))]
    control = drawing_edits(
        drawing, model, trajectory, targets="\n".join(lines), blend_words="cat; cat, boat; ; ",
        windows="; ; tau_s: 0.3, tau_c: 0.3; tau_s: 0.6")
    latent = drawing.add(SAMPLE, {
        "model": model["MODEL"], "trajectory": trajectory, "value_embedding": embedding,
        "control": control})["latent"]
    drawing.column("Compare", 520)
    drawing.add("StyleDiffusionComparisonSheet", {
        "image": scene["image"], "vae": model["VAE"], "latent": latent, "control": control})


def tau_sweep(drawing: Drawing) -> None:
    """One edit under many windows."""
    model, scene = demo_parts(
        drawing, "One edit under many values of two taus, in one batch. Pick the cell you like "
        "and write its numbers into *P2Plus Controller*.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory,
                            targets=scenes.caption(trials.DEMO.edits[1]))
    drawing.column("Sweep", 620)
    drawing.add("StyleDiffusionTauSweep", {
        "model": model["MODEL"], "vae": model["VAE"], "trajectory": trajectory,
        "value_embedding": embedding, "control": control}, 820,
        rows="tau_s", row_values="0, 0.3, 0.6, 0.9", columns="tau_c",
        column_values="0, 0.3, 0.6, 0.9")


def heatmaps(drawing: Drawing) -> None:
    """Where words look, in the picture and in an edit."""
    model, scene = demo_parts(
        drawing, "Where each word looks: above in your picture, seen on the inversion itself, "
        "below in the second edit, while it is painted.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    drawing.column("See", 620)
    seen = {"model": model["MODEL"], "clip": model["CLIP"], "trajectory": trajectory,
            "image": scene["image"]}
    drawing.add("StyleDiffusionHeatmaps", seen, words="brown, cat, city")
    drawing.add("StyleDiffusionHeatmaps",
                {**seen, "value_embedding": embedding, "control": control},
                words="brown, boat, city", target=2)


def generated_edit(drawing: Drawing) -> None:
    """A picture from a seed, and an edit of it."""
    drawing.column("Model", 320)
    drawing.note("No photo: the picture grows from a prompt and a seed. There is nothing to "
                 "invert and nothing to learn. Change the seed until you like the picture, then "
                 "edit it by its words.", 200)
    model = drawing.add(MODEL)
    drawing.column("Generate", 380)
    made = drawing.add("StyleDiffusionGenerate", {"model": model["model"], "clip": model["clip"]},
                       prompt="a painting of a red car in the snow", width=128, height=128,
                       guidance=5.0, seed=3)
    drawing.column(EDIT, 380)
    control = drawing.add(CONTROL, {"clip": model["clip"], "trajectory": made["trajectory"]},
                          targets="a painting of a blue car in the snow", blend_words="car",
                          **TAUS, **REGION)["control"]
    latent = drawing.add(SAMPLE, {
        "model": model["model"], "trajectory": made["trajectory"], "control": control},
        guidance=5.0)["latent"]
    drawing.column("Look", 420)
    decoded = drawing.add("VAEDecode", {"samples": latent, "vae": model["vae"]})["IMAGE"]
    drawing.add("SaveImage", {"images": decoded}, 500, filename_prefix="StyleDiffusion/generated")


def native_sampling(drawing: Drawing) -> None:
    """The same edits by the host's own sampler."""
    model, scene = demo_parts(
        drawing, "*P2Plus Guider* is *Sample* in parts, for the host's own sampler. The pictures "
        "are the same, bit for bit.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    drawing.column("Sample", 420)
    parts = drawing.add("StyleDiffusionP2PlusGuider", {
        "model": model["MODEL"], "trajectory": trajectory, "value_embedding": embedding,
        "control": control})
    latent = drawing.add("SamplerCustomAdvanced", {
        "latent_image" if name == "latent" else name: parts[name]
        for name in ("noise", "guider", "sampler", "sigmas", "latent")})["output"]
    decoded = drawing.add("VAEDecode", {"samples": latent, "vae": model["VAE"]})["IMAGE"]
    drawing.add("SaveImage", {"images": decoded}, 420, filename_prefix="StyleDiffusion/native")


def save_inversion(drawing: Drawing) -> None:
    """An inversion into a file."""
    model, scene = demo_parts(
        drawing, "What was inverted and learnt goes into one file in the output folder, under "
        "*StyleDiffusion*. The graph *load_inversion* edits it another day, without doing either "
        "again.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    drawing.column("Keep", 380)
    drawing.add("StyleDiffusionSaveInversion",
                {"trajectory": trajectory, "value_embedding": embedding}, 160)


def load_inversion(drawing: Drawing) -> None:
    """Edits of an inversion from a file."""
    drawing.column("Model and inversion", 360)
    drawing.note("Run *save_inversion* first, then choose its file here. Connect the same model "
                 "the picture was inverted with.", 140)
    model = drawing.add(MODEL)
    loaded = drawing.add("StyleDiffusionLoadInversion", file=SAVED)
    source = {"MODEL": model["model"], "CLIP": model["clip"], "VAE": model["vae"]}
    control = drawing_edits(drawing, source, loaded["trajectory"])
    sampled(drawing, source, loaded["trajectory"], loaded["value_embedding"], control,
            "StyleDiffusion/loaded")


EXAMPLES: dict[str, Callable[[Drawing], None]] = {
    found.__name__: found for found in (
        demo_edit, photo_edit, photo_edit_exact, photo_edit_lora, photo_edit_controlnet,
        several_edits, tau_sweep, heatmaps, generated_edit, native_sampling, save_inversion,
        load_inversion)}


def drawn(object_info: dict[str, Any], name: str) -> dict[str, Any]:
    """One example graph."""
    drawing = Drawing(object_info)
    EXAMPLES[name](drawing)
    return drawing.graph()


def as_text(graph: dict[str, Any]) -> str:
    """A graph as its file holds it."""
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"


def written(object_info: dict[str, Any]) -> list[Path]:
    """All example graphs, written to workflows/."""
    paths = []
    for name in EXAMPLES:
        path = FOLDER / f"{name}.json"
        path.write_text(as_text(drawn(object_info, name)), encoding="utf-8", newline="\n")
        paths.append(path)
    return paths
