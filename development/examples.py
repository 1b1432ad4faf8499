"""The example graphs of workflows/, drawn from the host's node definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import scenes
from training import trials

from .drawing import Drawing, Output
from .parts import (
    AGAIN,
    CONTROL,
    CONTROL_NET,
    EDIT,
    EDITING,
    FIRST,
    HEAT,
    INVERTING,
    LEARNING,
    LOOKING,
    LORA,
    MODEL,
    PHOTO_PROMPT,
    REGION,
    SAMPLING,
    TAUS,
    VISION,
    WIDE,
    Source,
    checkpoint,
    demo_parts,
    drawing_edits,
    inverted,
    inverted_and_learnt,
    learnt,
    photo_control,
    photograph,
    sampled,
    sampled_and_shown,
    scaled,
    shown,
)
from .places import ROOT

FOLDER = ROOT / "workflows"
WHERE_IT_SHOWS = "*blend_words* says where the edit shows: name what changes there, or empty it."
SAVED = "StyleDiffusion/inversion_00001_.inversion.safetensors [output]"


def demo_edit(drawing: Drawing) -> None:
    """The demo: one picture, two edits."""
    model, scene = demo_parts(
        drawing, "**Press Run.** The picture is inverted, its value embedding learnt, and both "
        "edits are painted beside the reconstruction.\n\n**Edit again:** write other lines into "
        "*targets*, name what changes in *blend_words*, and press Run. Nothing is inverted or "
        "learnt again.\n\n**Your own photo:** the template *Edit a photo*.")
    trajectory, embedding = inverted_and_learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    sampled_and_shown(drawing, model, trajectory, embedding, control, "StyleDiffusion/edit")


def photo_edit(drawing: Drawing) -> None:
    """A photo of one's own on SD1.5, edited where a word looks or where the mask is painted."""
    model = checkpoint(
        drawing, "Choose your photo, describe it in *DDIM Invert*, and write the edit into "
        "*targets*: the same sentence with other words.\n\nThe edit shows where *blend_words* "
        "look, or where you paint: right-click *Load Image*, *Open in MaskEditor*.\n\n"
        "For SDXL set *megapixels* to 1.")
    photo, mask = photograph(drawing)
    drawing.column(AGAIN, INVERTING)
    trajectory = inverted(drawing, model, scaled(drawing, photo), prompt=PHOTO_PROMPT)
    drawing.beside(LEARNING)
    embedding = learnt(drawing, model, trajectory)
    control = photo_control(drawing, model, trajectory, mask)
    sampled_and_shown(drawing, model, trajectory, embedding, control, "StyleDiffusion/photo")


def photo_edit_exact(drawing: Drawing) -> None:
    """The same as in the paper: mapping networks on the tokens of CLIP ViT-B/16."""
    model = checkpoint(
        drawing, "As in the paper: mapping networks learn from what CLIP ViT-B/16 sees in your "
        "photo. It takes several times as long as *Edit a photo*; use it to compare, or for "
        f"research.\n\n{WHERE_IT_SHOWS}")
    photo, _ = photograph(drawing)
    drawing.column(AGAIN, INVERTING)
    picture = scaled(drawing, photo)
    trajectory = inverted(drawing, model, picture, prompt=PHOTO_PROMPT)
    drawing.beside(LEARNING)
    vision = drawing.add("StyleDiffusionLoadCLIPVision", None, 0, [VISION],
                         clip_name=VISION["name"])
    embedding = learnt(drawing, model, trajectory, {
        "clip_vision": vision["clip_vision"], "image": picture}, preset="exact")
    control = photo_control(drawing, model, trajectory)
    sampled_and_shown(drawing, model, trajectory, embedding, control, "StyleDiffusion/photo")


def photo_edit_lora(drawing: Drawing) -> None:
    """A photo on SD1.5 with a LoRA."""
    loaded = checkpoint(
        drawing, "The LoRA is part of the model from the start: invert, learn and sample with the "
        "same MODEL. Put the name of a LoRA of yours into *Load LoRA*.\n\n" + WHERE_IT_SHOWS,
        "Model and LoRA")
    lora = drawing.add("LoraLoader", {"model": loaded["MODEL"], "clip": loaded["CLIP"]},
                       lora_name=LORA, strength_model=0.8, strength_clip=0.8)
    model = {**loaded, "MODEL": lora["MODEL"], "CLIP": lora["CLIP"]}
    drawing.column("Photo", INVERTING)
    picture = scaled(drawing, photograph(drawing)[0])
    _six_columns(drawing, model, picture, "StyleDiffusion/lora")


def photo_edit_controlnet(drawing: Drawing) -> None:
    """A photo on SD1.5 whose edges a ControlNet holds."""
    model = checkpoint(
        drawing, "A ControlNet reads the edges of your photo, and inversion, learning and edits "
        "run under it. Set the thresholds of *Detect Edges* so that what may change has few. "
        f"\n\n{WHERE_IT_SHOWS}")
    photo, _ = photograph(drawing)
    drawing.column("ControlNet", INVERTING)
    loaded = drawing.add("ControlNetLoader", None, 0, [CONTROL_NET],
                         control_net_name=CONTROL_NET["name"])
    picture = scaled(drawing, photo)
    edges = drawing.add("Canny", {"image": picture}, low_threshold=0.2, high_threshold=0.5)
    drawing.add("PreviewImage", {"images": edges["IMAGE"]}, 280)
    _six_columns(drawing, model, picture, "StyleDiffusion/controlnet", {
        "control_net": loaded["CONTROL_NET"], "control_image": edges["IMAGE"]})


def _six_columns(
    drawing: Drawing, model: Source, picture: Output, prefix: str,
    controlled: Source | None = None,
) -> None:
    """What follows two columns: four more, the last of which samples and shows."""
    drawing.column(AGAIN, LEARNING)
    trajectory = inverted(drawing, model, picture, controlled, prompt=PHOTO_PROMPT)
    drawing.beside(LEARNING)
    embedding = learnt(drawing, model, trajectory)
    control = photo_control(drawing, model, trajectory)
    drawing.column("Sample and look", LOOKING)
    latent = sampled(drawing, model, trajectory, embedding, control)
    shown(drawing, model, latent, prefix, 165)


def several_edits(drawing: Drawing) -> None:
    """Four edits in one batch, on one sheet."""
    model, scene = demo_parts(
        drawing, "One edit a line in *targets*: all are painted in one batch, beside the source, "
        "which is computed once.\n\nWords and windows take one part a line between semicolons; "
        "here only the first two edits are kept to a region.")
    trajectory, embedding = inverted_and_learnt(drawing, model, scene["image"])
    lines = [scenes.caption(edit) for edit in (
        *trials.DEMO.edits, scenes.edited(trials.DEMO.scene, place="snow"),
        scenes.edited(trials.DEMO.scene, style="sketch"))]
    control = drawing_edits(
        drawing, model, trajectory, 640, targets="\n".join(lines), blend_words="cat; cat, boat; ; ",
        windows="; ; tau_s: 0.3, tau_c: 0.3; tau_s: 0.6")
    drawing.column("Sample and compare", WIDE)
    latent = sampled(drawing, model, trajectory, embedding, control)
    drawing.add("StyleDiffusionComparisonSheet", {
        "image": scene["image"], "vae": model["VAE"], "latent": latent, "control": control}, 265)


def tau_sweep(drawing: Drawing) -> None:
    """One edit under many windows."""
    model, scene = demo_parts(
        drawing, "One edit under many values of two taus, in one batch. Pick the cell you like "
        "and write its numbers into *P2Plus Controller*.")
    trajectory, embedding = inverted_and_learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory,
                            targets=scenes.caption(trials.DEMO.edits[1]))
    drawing.column("Sweep", WIDE)
    drawing.add("StyleDiffusionTauSweep", {
        "model": model["MODEL"], "vae": model["VAE"], "trajectory": trajectory,
        "value_embedding": embedding, "control": control}, 640,
        rows="tau_s", row_values="0, 0.3, 0.6, 0.9", columns="tau_c",
        column_values="0, 0.3, 0.6, 0.9")


def heatmaps(drawing: Drawing) -> None:
    """Where words look, in the picture and in an edit."""
    model, scene = demo_parts(
        drawing, "Where each word looks: at the left in your picture, seen on the inversion "
        "itself, at the right in the second edit, while it is painted.\n\nWith *Learn Value "
        "Embedding* between, as in *Demo*, the second sees what that edit sees.")
    drawing.column("Invert, once a picture", INVERTING)
    trajectory = inverted(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    seen = {"model": model["MODEL"], "clip": model["CLIP"], "trajectory": trajectory,
            "image": scene["image"]}
    drawing.column("See your picture", HEAT)
    drawing.add("StyleDiffusionHeatmaps", seen, 540, words="brown, cat, city")
    drawing.column("See an edit", HEAT)
    drawing.add("StyleDiffusionHeatmaps", {**seen, "control": control}, 540,
                words="brown, boat, city", target=2)


def generated_edit(drawing: Drawing) -> None:
    """A picture from a seed, and an edit of it."""
    drawing.column("Model", FIRST)
    drawing.note("No photo: the picture grows from a prompt and a seed. There is nothing to "
                 "invert and nothing to learn.\n\nChange the seed until you like the picture, "
                 "then edit it by its words.")
    loaded = drawing.add(MODEL)
    model = {"MODEL": loaded["model"], "CLIP": loaded["clip"], "VAE": loaded["vae"]}
    drawing.column("Generate", INVERTING)
    trajectory = drawing.add(
        "StyleDiffusionGenerate", {"model": model["MODEL"], "clip": model["CLIP"]},
        prompt="a painting of a red car in the snow", width=128, height=128, guidance=5.0,
        seed=3)["trajectory"]
    drawing.column(EDIT, EDITING)
    control = drawing.add(CONTROL, {"clip": model["CLIP"], "trajectory": trajectory},
                          targets="a painting of a blue car in the snow", blend_words="car",
                          **TAUS, **REGION)["control"]
    sampled_and_shown(drawing, model, trajectory, None, control, "StyleDiffusion/generated",
                      guidance=5.0)


def native_sampling(drawing: Drawing) -> None:
    """The same edits by the host's own sampler."""
    model, scene = demo_parts(
        drawing, "*P2Plus Guider* is *Sample* in parts, for the host's own sampler. The pictures "
        "are the same, bit for bit.")
    trajectory, embedding = inverted_and_learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    drawing.beside(SAMPLING)
    parts = drawing.add("StyleDiffusionP2PlusGuider", {
        "model": model["MODEL"], "trajectory": trajectory, "value_embedding": embedding,
        "control": control})
    latent = drawing.add("SamplerCustomAdvanced", {
        "latent_image" if name == "latent" else name: parts[name]
        for name in ("noise", "guider", "sampler", "sigmas", "latent")})["output"]
    drawing.column("Look", LOOKING)
    shown(drawing, model, latent, "StyleDiffusion/native")


def save_inversion(drawing: Drawing) -> None:
    """An inversion into a file."""
    model, scene = demo_parts(
        drawing, "What was inverted and learnt goes into one file in the output folder, under "
        "*StyleDiffusion*. The graph *Edit a saved inversion* edits it another day, without doing "
        "either again.")
    trajectory, embedding = inverted_and_learnt(drawing, model, scene["image"])
    drawing.column("Keep", EDITING)
    drawing.add("StyleDiffusionSaveInversion",
                {"trajectory": trajectory, "value_embedding": embedding}, 160)


def load_inversion(drawing: Drawing) -> None:
    """Edits of an inversion from a file."""
    drawing.column("Model and inversion", EDITING)
    drawing.note("Run *Save an inversion* first, then choose its file here. Connect the same model "
                 "the picture was inverted with.")
    model = drawing.add(MODEL)
    loaded = drawing.add("StyleDiffusionLoadInversion", file=SAVED)
    source = {"MODEL": model["model"], "CLIP": model["clip"], "VAE": model["vae"]}
    control = drawing_edits(drawing, source, loaded["trajectory"])
    sampled_and_shown(drawing, source, loaded["trajectory"], loaded["value_embedding"], control,
                      "StyleDiffusion/loaded")


# By the names of their files, which the Templates dialog shows; the page's address takes no spaces.
EXAMPLES: dict[str, Callable[[Drawing], None]] = {
    "Demo": demo_edit,
    "Edit a photo": photo_edit,
    "Edit a photo as the paper does": photo_edit_exact,
    "Edit a photo with a LoRA": photo_edit_lora,
    "Edit a photo with a ControlNet": photo_edit_controlnet,
    "Several edits at once": several_edits,
    "Sweep two taus": tau_sweep,
    "See where words look": heatmaps,
    "Edit a generated picture": generated_edit,
    "Sample with SamplerCustomAdvanced": native_sampling,
    "Save an inversion": save_inversion,
    "Edit a saved inversion": load_inversion,
}


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
