"""From checkpoints, or from what an earlier export holds, to the one file that is shipped."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from demo import model as parts
from demo import scenes
from demo.loading import WEIGHTS

from .data import (
    Budget,
    averaged,
    checkpoint_steps,
    flatten,
    pixels,
    save_checkpoint,
    take,
    trained,
)

log = logging.getLogger("training.train")


def trained_vae(budget: Budget) -> Any:
    """The VAE of the last stages that trained it."""
    vae = trained(budget, "vae", "vae", parts.new_vae(), "first_stage_model")
    if budget.file("decoder").exists():
        averaged("decoder", budget, "decoder", vae.taesd_decoder)
    return vae


def trained_text(budget: Budget, vocabulary: Tensor) -> Any:
    """The text encoder."""
    return trained(budget, "diffusion", "text", parts.new_text_encoder(vocabulary), "text",
                   **vocabulary_rows(budget))


def vocabulary_ids() -> Tensor:
    """The token ids captions are made of, sorted; the text encoder learns these only."""
    return parts.token_ids(parts.tokenizer(), [" ".join(scenes.vocabulary()), ""]).unique()


def vocabulary_rows(budget: Budget) -> dict[str, Tensor]:
    """The token table of the exported model a run starts from, if it does."""
    if budget.weights is None:
        return {}
    return {"text_model.embeddings.token_embedding.weight":
            load_file(budget.weights)["vocabulary.rows"]}


@torch.no_grad()
def preview_colours(vae: Any) -> tuple[Tensor, Tensor]:
    """Least-squares factors [4, 3] and bias [3] from a latent cell to its mean colour in -1..1."""
    images = pixels(take(scenes.random_scenes(5), 200))
    latents = vae.taesd_encoder(images).permute(0, 2, 3, 1).reshape(-1, 4)
    colours = F.avg_pool2d(images, 8).permute(0, 2, 3, 1).reshape(-1, 3) * 2 - 1
    design = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    solution = torch.linalg.lstsq(design.double(), colours.double()).solution.float()
    return solution[:4], solution[4]


def commands(budget: Budget) -> list[str]:
    """How the exported weights came to be, from those they started from to the last stage."""
    earlier, more = [], ""
    if budget.weights is not None:
        with safe_open(budget.weights, "pt") as file:
            earlier = [file.metadata()["command"]]
        more = f" --weights {budget.weights.name}"
    run = [n for n in ("vae", "diffusion", "vision", "decoder") if budget.file(n).exists()]
    return earlier + [
        f"python -m training.train --stage {n} --steps {checkpoint_steps(budget.file(n))[0]}{more}"
        for n in run]


def export(budget: Budget) -> bool:
    """Stage 6: all parts in half precision and one file, with the vocabulary rows in use."""
    vae = trained_vae(budget)
    ids = vocabulary_ids()
    text = trained_text(budget, ids).state_dict()
    rows = text.pop("text_model.embeddings.token_embedding.weight")
    text.pop("text_projection.weight", None)
    factors, bias = preview_colours(vae)
    tensors = {
        **flatten("model.diffusion_model",
                  trained(budget, "diffusion", "unet", parts.new_unet(),
                          "model.diffusion_model").state_dict()),
        **flatten("text", text),
        **flatten("first_stage_model", vae.state_dict()),
        **flatten("vision", trained(budget, "vision", "vision", parts.new_vision_tower(),
                                    "vision").state_dict()),
        "vocabulary.rows": rows,
    }
    tensors = {k: v.half() for k, v in tensors.items()}
    tensors["vocabulary.ids"] = ids.to(torch.int32)
    tensors["latent_rgb.factors"], tensors["latent_rgb.bias"] = factors, bias
    metadata = {
        "title": "StyleDiffusion demo model",
        "licence": "MIT",
        "seed": str(budget.seed),
        "data_version": str(scenes.VERSION),
        "command": "; ".join(commands(budget)),
    }
    save_checkpoint(WEIGHTS, tensors, metadata)
    log.info("%s: %.1f MB", WEIGHTS.name, WEIGHTS.stat().st_size / 1e6)
    return True
