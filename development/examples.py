"""The example graphs of workflows/, drawn from the host's node definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import scenes, trials

from .drawing import Drawing, Node, Output
from .places import ROOT

FOLDER = ROOT / "workflows"
MODEL, SCENE, INVERT, LEARN, CONTROL, SAMPLE = (
    f"StyleDiffusion{name}" for name in (
        "LoadDemoModel", "DemoScene", "DDIMInvert", "LearnValueEmbedding", "P2PlusController",
        "Sample"))
SOURCE = scenes.caption(trials.DEMO.scene)
TAUS = {"tau_v": 0.5, "tau_c": 0.6, "tau_s": 0.8, "tau_u": 0.0}
REGION = {"blend_threshold": 0.45, "blend_start": 0.1}
CHECKPOINT = {
    "name": "v1-5-pruned-emaonly-fp16.safetensors", "directory": "checkpoints",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
           "v1-5-pruned-emaonly-fp16.safetensors",
}
VISION = {
    "name": "clip-vit-base-patch16.safetensors", "directory": "clip_vision",
    "url": "https://huggingface.co/openai/clip-vit-base-patch16/resolve/main/model.safetensors",
}
LORA = "your_lora.safetensors"
PHOTO, PHOTO_PROMPT = "example.png", "a drawing of a girl in a pink dress on a green hill"
PHOTO_EDIT = "a drawing of a girl in a red dress on a green hill"
SAVED = "StyleDiffusion/inversion_00001_.inversion.safetensors [output]"
AGAIN = "Invert and learn, once a picture"
EDIT = "Edit, as often as you like"
Source = dict[str, Output]


def demo_edit(drawing: Drawing) -> None:
    """The demo: one picture, two edits."""
    model, scene = demo_parts(
        drawing, "**Press Run.** The picture is inverted, its value embedding is learnt, and both "
        "edits are painted beside the reconstruction.\n\n**Edit again:** write other lines into "
        "*targets* and press Run. Inversion and learning are not repeated.\n\n**Your own photo:** "
        "put *Load Checkpoint* in the place of *Load Demo Model*, *Load Image* in the place of "
        "*Demo Scene*, and describe the photo in *DDIM Invert*.")
    trajectory, embedding = learnt(drawing, model, scene["image"])
    control = drawing_edits(drawing, model, trajectory)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/edit")


def photo_edit(drawing: Drawing) -> None:
    """A photo of one's own on SD1.5."""
    model, picture = photo_parts(
        drawing, "Choose your photo in *Load Image* and describe it in *DDIM Invert*. Then write "
        "the edit into *targets*: the same sentence with other words, one edit a line.\n\nThe "
        "checkpoint is Stable Diffusion 1.5; any SD1.x, SD2.x or SDXL checkpoint does. Learning "
        "takes a minute or two on a GPU, once for each photo.")
    trajectory, embedding = learnt(drawing, model, picture, prompt=PHOTO_PROMPT)
    control = photo_control(drawing, model, trajectory, PHOTO_EDIT)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/photo")


def photo_edit_exact(drawing: Drawing) -> None:
    """The same as in the paper: mapping networks on the tokens of CLIP ViT-B/16."""
    model, picture = photo_parts(
        drawing, "As in the paper: mapping networks learn from what CLIP ViT-B/16 sees in your "
        "photo, by the authors' schedule. It takes several times as long as *photo_edit* and "
        "brings the photo back as well; use it to compare, or for research.")
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
        "same MODEL. Put the name of a LoRA of yours into *Load LoRA*.")
    lora = drawing.add("LoraLoader", {"model": loaded["MODEL"], "clip": loaded["CLIP"]},
                       lora_name=LORA, strength_model=0.8, strength_clip=0.8)
    model = {**loaded, "MODEL": lora["MODEL"], "CLIP": lora["CLIP"]}
    trajectory, embedding = learnt(drawing, model, picture, prompt=PHOTO_PROMPT)
    control = photo_control(drawing, model, trajectory, PHOTO_EDIT)
    sampled(drawing, model, trajectory, embedding, control, "StyleDiffusion/lora")


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
        demo_edit, photo_edit, photo_edit_exact, photo_edit_lora, several_edits, tau_sweep,
        heatmaps, generated_edit, native_sampling, save_inversion, load_inversion)}


def demo_parts(drawing: Drawing, note: str) -> tuple[Source, Node]:
    """The demo model and its picture under a note."""
    drawing.column("Model and picture", 320)
    drawing.note(note, _note_height(note))
    model = drawing.add(MODEL)
    trial = trials.DEMO
    scene = drawing.add(SCENE, object=trial.object, colour=trial.colour, place=trial.place,
                        style=trial.style, seed=trial.seed)
    return {"MODEL": model["model"], "CLIP": model["clip"], "VAE": model["vae"]}, scene


def photo_parts(drawing: Drawing, note: str) -> tuple[Source, Output]:
    """A checkpoint and a photo of a size it knows, under a note."""
    drawing.column("Model and photo", 360)
    drawing.note(note, _note_height(note))
    model = drawing.add("CheckpointLoaderSimple", None, 0, [CHECKPOINT],
                        ckpt_name=CHECKPOINT["name"])
    photo = drawing.add("LoadImage", None, 340, image=PHOTO)
    scaled = drawing.add("ImageScaleToTotalPixels", {"image": photo["IMAGE"]},
                         upscale_method="lanczos", megapixels=0.25)
    return model.outputs, scaled["IMAGE"]


def _note_height(note: str) -> int:
    """Enough for the page's small letters."""
    return 80 + 18 * (len(note) // 50 + note.count("\n"))


def learnt(
    drawing: Drawing, model: Source, image: Output, more: Source | None = None, /,
    prompt: str = SOURCE, **learning: Any,
) -> tuple[Output, Output]:
    """(trajectory, value embedding) of a picture."""
    drawing.column(AGAIN, 380)
    latent = drawing.add("VAEEncode", {"pixels": image, "vae": model["VAE"]})["LATENT"]
    trajectory = drawing.add(INVERT, {
        "model": model["MODEL"], "clip": model["CLIP"], "latent": latent},
        prompt=prompt)["trajectory"]
    embedding = drawing.add(LEARN, {
        "model": model["MODEL"], "trajectory": trajectory, **(more or {})}, **learning)
    return trajectory, embedding["value_embedding"]


def drawing_edits(
    drawing: Drawing, model: Source, trajectory: Output, **wishes: Any
) -> Output:
    """A control for the demo's two edits, or others."""
    drawing.column(EDIT, 380)
    usual = {"targets": "\n".join(scenes.caption(edit) for edit in trials.DEMO.edits),
             "blend_words": f"{trials.DEMO.object}, {trials.DEMO.new_object}", **TAUS, **REGION}
    return drawing.add(CONTROL, {"clip": model["CLIP"], "trajectory": trajectory},
                       **{**usual, **wishes})["control"]


def photo_control(
    drawing: Drawing, model: Source, trajectory: Output, targets: str
) -> Output:
    """A control for an edit of the whole photo."""
    drawing.column(EDIT, 380)
    return drawing.add(CONTROL, {"clip": model["CLIP"], "trajectory": trajectory},
                       targets=targets, blend_words="dress")["control"]


def sampled(
    drawing: Drawing, model: Source, trajectory: Output, embedding: Output, control: Output,
    prefix: str,
) -> None:
    """Reconstruction and edits as pictures."""
    latent = drawing.add(SAMPLE, {
        "model": model["MODEL"], "trajectory": trajectory, "value_embedding": embedding,
        "control": control})["latent"]
    drawing.column("Look", 420)
    decoded = drawing.add("VAEDecode", {"samples": latent, "vae": model["VAE"]})["IMAGE"]
    drawing.add("SaveImage", {"images": decoded}, 500, filename_prefix=prefix)


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
