"""The networks that measures look through, from files in the host's model folders.

Nothing is fetched: a file that is not there is a reason in the report, with its place and source.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sd1_clip
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...measures import dino, perceptual, table, text_agreement
from ..inputs import pictures_of
from ..vision import tower_config

log = logging.getLogger("stylediffusion")

LPIPS_FOLDER = "lpips"
TEXT_ROWS = 77
END_OF_TEXT = 49407

folder_paths.add_model_folder_path(
    LPIPS_FOLDER, os.path.join(folder_paths.models_dir, LPIPS_FOLDER))


@dataclass(frozen=True)
class WeightFile:
    """A file by its name in one of the host's model folders, and where people get it."""

    folder: str
    name: str
    source: str

    @property
    def missing(self) -> str:
        """What to do where it is not there."""
        return f"models/{self.folder}/{self.name} is missing: put {self.source} there"

    def path(self) -> str | None:
        """Where it lies."""
        path: str | None = folder_paths.get_full_path(self.folder, self.name)
        return path

    def read(self) -> dict[str, Tensor]:
        """Its tensors, in fp32; raises ValueError where it holds none, or cannot be read."""
        path = self.path()
        assert path is not None
        try:
            tensors = comfy.utils.load_torch_file(path, safe_load=True)
            return {name: tensor.float() for name, tensor in tensors.items()}
        except Exception as error:  # whatever a damaged file makes of its reader
            raise ValueError(f"{path} cannot be read ({error}); put {self.source} there") from error


def _lpips_weights(name: str) -> WeightFile:
    return WeightFile(
        LPIPS_FOLDER, f"{name}.pth",
        f"lpips/weights/v0.1/{name}.pth of github.com/richzhang/PerceptualSimilarity")


FILES: dict[str, tuple[WeightFile, ...]] = {
    table.SQUEEZE: (
        WeightFile(LPIPS_FOLDER, "squeezenet1_1-b8a52dc0.pth",
                   "download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"),
        _lpips_weights("squeeze")),
    table.ALEX: (
        WeightFile(LPIPS_FOLDER, "alexnet-owt-7be5be79.pth",
                   "download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
        _lpips_weights("alex")),
    table.DINO: (WeightFile("clip_vision", "dino-vitb8.safetensors",
                            "model.safetensors of huggingface.co/facebook/dino-vitb8"),),
    table.CLIP: (WeightFile(
        "clip_vision", "clip-vit-large-patch14.safetensors",
        "model.safetensors of huggingface.co/openai/clip-vit-large-patch14, which has both towers "
        "and their projections, as a clip_l text encoder has not,"),),
}


def files_state() -> list[str]:
    """Which of the networks' files are there, and in what state: another one, another report."""
    paths = [file.path() for files in FILES.values() for file in files]
    return [f"{path} {os.stat(path).st_mtime_ns}" for path in paths if path is not None]


def networks(wanted: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Those of the wanted networks whose files are there, and for each other one the reason."""
    built: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in sorted(wanted):
        gone = [file.missing for file in FILES[name] if file.path() is None]
        if gone:
            missing[name] = "; ".join(gone)
        else:
            built[name] = BUILDERS[name](*(file.read() for file in FILES[name]))
    return built, missing


def with_lpips(
    name: str
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], perceptual.Network]:
    """What builds LPIPS of "alex" or "squeeze" where the host computes."""

    def build(trunk: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> perceptual.Network:
        network = _where_the_host_computes(perceptual.build(name, trunk, weights))
        device = comfy.model_management.get_torch_device()

        def distances(first: Tensor, second: Tensor) -> list[Tensor]:
            rows = [network(a.to(device), b.to(device))
                    for a, b in zip(first.split(1), second.split(1), strict=True)]
            return [torch.cat(layer).cpu() for layer in zip(*rows, strict=True)]

        return distances

    return build


def with_dino(state: Mapping[str, Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Pictures [B, H, W, 3] in 0..1 and a factor to keys [B, tokens, d], one picture at a time."""
    device = comfy.model_management.get_torch_device()
    weights = {name.removeprefix("vit."): tensor.to(device) for name, tensor in state.items()}

    def keys(pictures: Tensor, times: float) -> Tensor:
        return torch.cat([dino.keys(weights, picture.to(device), times).cpu()
                          for picture in pictures.split(1)])

    return keys


def with_clip(state: dict[str, Tensor]) -> text_agreement.Clip:
    """Pictures in 0..1 and prompts to their projected embeddings [B, d]."""
    from transformers import CLIPModel, CLIPTokenizer

    model = _where_the_host_computes(CLIPModel.from_pretrained(
        None, config=clip_config(state), state_dict=state))
    device = comfy.model_management.get_torch_device()
    folder = os.path.join(os.path.dirname(comfy.sd1_clip.__file__), "sd1_tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    side = model.config.vision_config.image_size

    def images(pictures: Tensor) -> Tensor:
        seen = [model.vision_model(pixel_values=text_agreement.clip_pixels(row, side).to(device))
                for row in pictures.split(1)]
        return torch.cat([model.visual_projection(one.pooler_output) for one in seen]).cpu()

    def texts(prompts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(prompts), padding="max_length", max_length=TEXT_ROWS,
                           truncation=True, return_tensors="pt")["input_ids"].to(device)
        pooled = model.text_model(input_ids=tokens).pooler_output
        embeddings: Tensor = model.text_projection(pooled).cpu()
        return embeddings

    return text_agreement.Clip(images, texts)


def clip_config(state: Mapping[str, Tensor]) -> Any:
    """transformers' description of a CLIP, read from the shapes of its tensors.

    Raises ValueError where one of the two projections is not there.
    """
    from transformers import CLIPConfig

    for name in ("visual_projection.weight", "text_projection.weight"):
        if name not in state:
            file = FILES[table.CLIP][0]
            raise ValueError(f"models/{file.folder}/{file.name} has no {name}, so it is one of "
                             f"CLIP's towers; put {file.source} there")
    words = state["text_model.embeddings.token_embedding.weight"]
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    places = state["vision_model.embeddings.position_embedding.weight"].shape[0]
    rows = state["text_model.embeddings.position_embedding.weight"].shape[0]
    width = state["visual_projection.weight"].shape[0]
    text = {"vocab_size": words.shape[0], "max_position_embeddings": rows,
            "eos_token_id": END_OF_TEXT, **tower_config(state, "text_model", words.shape[1])}
    vision = {"patch_size": patches.shape[-1],
              "image_size": patches.shape[-1] * int((places - 1) ** 0.5),
              **tower_config(state, "vision_model", patches.shape[0])}
    return CLIPConfig(text_config={**text, "projection_dim": width},
                      vision_config={**vision, "projection_dim": width}, projection_dim=width)


BUILDERS: dict[str, Callable[..., Any]] = {
    table.SQUEEZE: with_lpips(table.SQUEEZE), table.ALEX: with_lpips(table.ALEX),
    table.DINO: with_dino, table.CLIP: with_clip}


def _where_the_host_computes(network: Any) -> Any:
    """The network on the host's device, after room was made for it."""
    device = comfy.model_management.get_torch_device()
    size = sum(weight.nbytes for weight in network.state_dict().values())
    comfy.model_management.free_memory(2 * size, device)
    return network.eval().requires_grad_(False).to(device)


@dataclass(frozen=True)
class Measured:
    """The means by metric, NaN where there is no number, and the report."""

    means: dict[str, float]
    report: str


def measure_edit(
    reference: Tensor, edit: Tensor, mask: Tensor | None, looked_at: Tensor | None, prompt: str,
    source_prompt: str, with_networks: bool = True,
) -> Measured:
    """Every metric of pictures as the host has them; prompts are one for all or a line each.

    Raises ValueError for pictures, masks or prompts that do not go together.
    """
    source = "a picture of Load Image or VAE Decode"
    compared = table.Compared(
        pictures_of(reference, "reference", source), pictures_of(edit, "edit", source),
        _counted(mask), _counted(looked_at), _lines(prompt), _lines(source_prompt))
    wanted = table.needed_networks(compared)
    built, missing = networks(wanted) if with_networks else (
        {}, dict.fromkeys(wanted, "networks is off"))
    rows = table.measure(compared, built, missing)
    return Measured(table.means(rows), table.report(compared, rows))


def _lines(prompts: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in prompts.splitlines() if line.strip())


def _counted(mask: Tensor | None) -> Tensor | None:
    """A MASK as [n, H, W]: some nodes leave the count out."""
    return None if mask is None else mask.reshape(-1, *mask.shape[-2:])
