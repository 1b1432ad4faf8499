"""What the example graphs share: models to download, and the parts that most of them have."""

from __future__ import annotations

from typing import Any

from demo import scenes, trials

from .drawing import Drawing, Node, Output

MODEL, SCENE, INVERT, LEARN, CONTROL, SAMPLE = (
    f"StyleDiffusion{name}" for name in (
        "LoadDemoModel", "DemoScene", "DDIMInvert", "LearnValueEmbedding", "P2PlusController",
        "Sample"))
SOURCE = scenes.caption(trials.DEMO.scene)
TAUS = {"tau_v": 0.3, "tau_c": 0.6, "tau_s": 0.8, "tau_u": 0.0}
REGION = {"blend_threshold": 0.2, "blend_start": 0.1, "blend_pooling": 1}
CHECKPOINT = {
    "name": "v1-5-pruned-emaonly-fp16.safetensors", "directory": "checkpoints",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
           "v1-5-pruned-emaonly-fp16.safetensors",
}
VISION = {
    "name": "clip-vit-base-patch16.safetensors", "directory": "clip_vision",
    "url": "https://huggingface.co/openai/clip-vit-base-patch16/resolve/main/model.safetensors",
}
CONTROL_NET = {
    "name": "control_v11p_sd15_canny_fp16.safetensors", "directory": "controlnet",
    "url": "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
           "control_v11p_sd15_canny_fp16.safetensors",
}
LORA = "your_lora.safetensors"
PHOTO, PHOTO_PROMPT = "example.png", "a drawing of a girl in a pink dress on a green hill"
PHOTO_EDIT = "a drawing of a girl in a red dress on a green hill"
AGAIN = "Invert and learn, once a picture"
EDIT = "Edit, as often as you like"
Source = dict[str, Output]


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
    drawing: Drawing, model: Source, image: Output, more: Source | None = None,
    controlled: Source | None = None, /, prompt: str = SOURCE, **learning: Any,
) -> tuple[Output, Output]:
    """(trajectory, value embedding) of a picture; with more links to learning or inversion."""
    drawing.column(AGAIN, 380)
    latent = drawing.add("VAEEncode", {"pixels": image, "vae": model["VAE"]})["LATENT"]
    trajectory = drawing.add(INVERT, {
        "model": model["MODEL"], "clip": model["CLIP"], "latent": latent, **(controlled or {})},
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
    drawing.add("SaveImage", {"images": decoded}, 820, filename_prefix=prefix)
