"""What the example graphs share: models to download, and the parts that most of them have."""

from __future__ import annotations

from typing import Any

from demo import scenes
from training import trials

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
# Six columns with their gutters are as wide as a small window shows readably.
FIRST, INVERTING, LEARNING, EDITING, SAMPLING, LOOKING = 230, 250, 235, 280, 226, 256
WIDE, HEAT, SAVING = 520, 375, 530


def demo_parts(drawing: Drawing, note: str) -> tuple[Source, Node]:
    """The demo model and its picture under a note."""
    drawing.column("Model and picture", FIRST)
    drawing.note(note)
    model = drawing.add(MODEL)
    trial = trials.DEMO
    scene = drawing.add(SCENE, object=trial.object, colour=trial.colour, place=trial.place,
                        style=trial.style, seed=trial.seed)
    return {"MODEL": model["model"], "CLIP": model["clip"], "VAE": model["vae"]}, scene


def checkpoint(drawing: Drawing, note: str, title: str = "Model and photo") -> Source:
    """A checkpoint under a note, at the head of a column."""
    drawing.column(title, FIRST)
    drawing.note(note)
    return drawing.add("CheckpointLoaderSimple", None, 0, [CHECKPOINT],
                       ckpt_name=CHECKPOINT["name"]).outputs


def photograph(drawing: Drawing) -> tuple[Output, Output]:
    """(a photo, its mask)."""
    photo = drawing.add("LoadImage", image=PHOTO)
    return photo["IMAGE"], photo["MASK"]


def scaled(drawing: Drawing, photo: Output) -> Output:
    """A photo at a size the checkpoint knows."""
    return drawing.add("ImageScaleToTotalPixels", {"image": photo},
                       upscale_method="lanczos", megapixels=0.25)["IMAGE"]


def inverted(
    drawing: Drawing, model: Source, image: Output, controlled: Source | None = None, /,
    prompt: str = SOURCE,
) -> Output:
    """The trajectory of a picture, in the present column; with more links to the inversion."""
    latent = drawing.add("VAEEncode", {"pixels": image, "vae": model["VAE"]})["LATENT"]
    return drawing.add(INVERT, {
        "model": model["MODEL"], "clip": model["CLIP"], "latent": latent, **(controlled or {})},
        prompt=prompt)["trajectory"]


def learnt(
    drawing: Drawing, model: Source, trajectory: Output, more: Source | None = None, /,
    **learning: Any,
) -> Output:
    """The value embedding of a trajectory, in the present column; with more links to learning."""
    return drawing.add(LEARN, {
        "model": model["MODEL"], "trajectory": trajectory, **(more or {})},
        **learning)["value_embedding"]


def inverted_and_learnt(
    drawing: Drawing, model: Source, image: Output
) -> tuple[Output, Output]:
    """(trajectory, value embedding) of the demo's picture, in a group of two columns."""
    drawing.column(AGAIN, INVERTING)
    trajectory = inverted(drawing, model, image)
    drawing.beside(LEARNING)
    return trajectory, learnt(drawing, model, trajectory)


def drawing_edits(
    drawing: Drawing, model: Source, trajectory: Output, height: int = 0, /, **wishes: Any
) -> Output:
    """A control for the demo's two edits, or others."""
    drawing.column(EDIT, EDITING)
    usual = {"targets": "\n".join(scenes.caption(edit) for edit in trials.DEMO.edits),
             "blend_words": f"{trials.DEMO.object}, {trials.DEMO.new_object}", **TAUS, **REGION}
    return drawing.add(CONTROL, {"clip": model["CLIP"], "trajectory": trajectory}, height,
                       **{**usual, **wishes})["control"]


def photo_control(
    drawing: Drawing, model: Source, trajectory: Output, mask: Output | None = None
) -> Output:
    """A control for an edit of the photo, with the region that is painted on it if any is."""
    drawing.column(EDIT, EDITING)
    links = {"clip": model["CLIP"], "trajectory": trajectory, **({"mask": mask} if mask else {})}
    return drawing.add(CONTROL, links, targets=PHOTO_EDIT, blend_words="dress")["control"]


def sampled(
    drawing: Drawing, model: Source, trajectory: Output, embedding: Output | None,
    control: Output, **wishes: Any,
) -> Output:
    """The latents of reconstruction and edits, in the present column."""
    return drawing.add(SAMPLE, {
        "model": model["MODEL"], "trajectory": trajectory,
        **({"value_embedding": embedding} if embedding else {}), "control": control},
        **wishes)["latent"]


def shown(
    drawing: Drawing, model: Source, latent: Output, prefix: str, height: int = SAVING
) -> None:
    """Reconstruction and edits as pictures, in the present column."""
    decoded = drawing.add("VAEDecode", {"samples": latent, "vae": model["VAE"]})["IMAGE"]
    drawing.add("SaveImage", {"images": decoded}, height, filename_prefix=prefix)


def sampled_and_shown(
    drawing: Drawing, model: Source, trajectory: Output, embedding: Output | None,
    control: Output, prefix: str, **wishes: Any,
) -> None:
    """Sampling beside the controller, and the pictures in a group of their own."""
    drawing.beside(SAMPLING)
    latent = sampled(drawing, model, trajectory, embedding, control, **wishes)
    drawing.column("Look", LOOKING)
    shown(drawing, model, latent, prefix)
