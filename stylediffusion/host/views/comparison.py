"""Source, reconstruction and edits side by side, and the reconstruction in decibels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...drawing import sheets
from ...measures.pixels import psnr
from ...method.prompt_to_prompt import Control
from ..inputs import MODEL_OVERFLOW, decoded, one_picture, require_given, samples_of


def compare(
    image: Tensor | None, vae: Any, latent: dict[str, Any] | None, control: Control | None,
    names: str = "",
) -> tuple[Tensor, str]:
    """(sheet [1, H, W, 3] of source, reconstruction and edits, the decibels in words).

    Raises ValueError for a picture or a latent that cannot be shown, or not beside each other, and
    for names that are not as many as the edits.
    """
    require_given(vae, "VAE", "Load Checkpoint or Load VAE")
    samples = samples_of(latent, "Sample", MODEL_OVERFLOW)
    labels = edit_labels(len(samples) - 1, control, names)
    one_picture(image)  # before the VAE is handed it
    source = vae.vae_encode_crop_pixels(image)[..., :3].float().cpu()
    painted = decoded(vae, samples)
    require_same_size(source, painted)
    (reached,) = psnr(source, painted[:1])
    (ceiling,) = psnr(source, decoded(vae, vae.encode(image)))
    tiles = [("source", "", source[0]),
             ("reconstruction", f"{reached:.2f} dB (ceiling {ceiling:.2f} dB)", painted[0]),
             *((label, "", edit) for label, edit in zip(labels, painted[1:], strict=True))]
    title = "" if control is None else f"\u201c{control.source_prompt}\u201d"
    report = f"reconstruction {reached:.2f} dB, ceiling (VAE alone) {ceiling:.2f} dB"
    return sheets.grid(title, "", tiles)[None], report


def edit_labels(count: int, control: Control | None, names: str = "") -> list[str]:
    """A name for each edit: its line of names, else its prompt, else its number.

    Raises ValueError where there are not as many names, or targets in the control, as edits.
    """
    if lines := [line.strip() for line in names.splitlines() if line.strip()]:
        if len(lines) != count:
            raise ValueError(
                f"the number of lines in labels is {len(lines)} ({', '.join(lines)}), but the "
                f"number of edits in the latent, after the reconstruction, is {count}; write one "
                "line for each edit, or connect nothing to labels")
        return lines
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
    given, wanted = (f"{images.shape[2]} x {images.shape[1]}" for images in (source, painted))
    if given != wanted:
        raise ValueError(
            f"the image is {given}, but the decoded latent is {wanted}; connect the picture that "
            "was inverted, at the size it was encoded at"
        )
