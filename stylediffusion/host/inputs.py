"""What other nodes hand over, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..prompts.quoting import quoted

VAE_OVERFLOW = "the VAE overflowed; start ComfyUI with --fp32-vae, or load another VAE"
MODEL_OVERFLOW = "the model overflowed; start ComfyUI with --bf16-unet or --fp32-unet"


def require_given(value: Any, name: str, source: str) -> None:
    """Raise ValueError for the None that a muted or bypassed node, or an empty output, leaves."""
    if value is None:
        raise ValueError(
            f"the {name} is None: the node connected there gave nothing; connect {source}, and see "
            "that it is neither muted nor bypassed"
        )


def require_text(text: str | None, name: str) -> None:
    """Raise ValueError for None and for text that neither a tokenizer nor a file name takes.

    That is text with half of a character in it, or with a NUL.
    """
    require_given(text, name, "a text")
    assert text is not None
    if quoted(text) != text or "\0" in text:
        shown = quoted(text).replace("\0", "\\0")
        raise ValueError(
            f"{name} is '{shown}', which holds a broken character, shown with a backslash here; "
            "type it anew"
        )


def samples_of(latent: dict[str, Any] | None, source: str, overflow: str) -> Tensor:
    """The samples [n, C, h, w] of a LATENT, n and all sizes at least 1, every number finite.

    Raises ValueError for anything else. `source` is the node that makes the right one, `overflow`
    says where numbers that are not finite come from.
    """
    require_given(latent, "latent", source)
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor):
        raise ValueError(
            f"the latent has no picture in it: its samples are {type(samples).__name__}; connect "
            f"{source}"
        )
    shape = tuple(samples.shape)
    if len(shape) != 4:
        raise ValueError(
            f"the latent has shape {shape}, but images, of shape (count, channels, height, width), "
            f"are needed; connect {source}"
        )
    if 0 in shape:
        raise ValueError(
            f"the latent is empty: its shape is {shape}; connect {source}, with a picture in it")
    wrong = int((~torch.isfinite(samples)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of the latent's {samples.numel()} numbers are not finite (NaN or inf), so "
            f"there is no picture in it: {overflow}, and run again"
        )
    return samples


def pictures_of(
    image: Tensor | None, name: str = "image", source: str = "the picture that was inverted, from "
    "Load Image"
) -> Tensor:
    """An IMAGE [n, H, W, 3 or more], n and all sizes at least 1, every number finite.

    Raises ValueError for anything else. `source` is what to connect in its place.
    """
    require_given(image, name, "Load Image")
    assert image is not None
    shape = tuple(image.shape)
    if len(shape) != 4 or 0 in shape or shape[-1] < 3:
        raise ValueError(
            f"the {name} has shape {shape}, but pictures in colour, of shape (count, height, "
            "width, 3), are needed; connect Load Image"
        )
    if not torch.isfinite(image).all():
        raise ValueError(
            f"the {name} has values that are not finite (NaN or inf): the node that made it "
            f"overflowed; connect {source}"
        )
    return image


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


def require_latent_of(vae: Any, samples: Tensor) -> None:
    """Raise ValueError unless samples [n, C, h, w] have the channels that a VAE decodes."""
    channels = getattr(vae, "latent_channels", samples.shape[1])
    if samples.shape[1] != channels:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels, but the VAE decodes {channels}; connect "
            "the VAE of the checkpoint that the latent was sampled with"
        )


def decoded(vae: Any, samples: Tensor) -> Tensor:
    """Pictures fp32 [n, H, W, 3] on the CPU of samples [n, C, h, w].

    Raises ValueError where the VAE overflows on them, and for those of another VAE.
    """
    require_latent_of(vae, samples)
    pictures: Tensor = vae.decode(samples).float().cpu()
    if not torch.isfinite(pictures).all():
        raise ValueError(
            "what the VAE made of the latent is not finite (NaN or inf): "
            f"{VAE_OVERFLOW}, and run again"
        )
    return pictures
