"""Where each word of a prompt looks half-way through its inversion, for the page to show."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...drawing import sheets
from ...method.alignment import TokenizedPrompt
from ...method.data import Trajectory
from ..heat import background
from ..model import ModelPatcher

SIDE = 256


@dataclass(frozen=True)
class WordHeat:
    """A prompt, and for each of its words a map [words, h, w]: a sum over heads and layers."""

    prompt: str
    maps: Tensor

    def shown(self, model: ModelPatcher, trajectory: Trajectory) -> dict[str, Any]:
        """What the page draws: the picture, and the heat of each word to be laid over it."""
        picture = sheets.image_of(background(model, trajectory))
        picture.thumbnail((SIDE, SIDE))
        heats = sheets.spread(self.maps, *self.maps.shape[1:])
        return {"word_heat": [{
            "prompt": self.prompt, "picture": _address(picture, "JPEG"),
            "heats": [_address(sheets.veil(heat), "PNG") for heat in heats]}]}


def word_columns(prompt: TokenizedPrompt) -> Tensor:
    """fp32 [T, words]: 1 at the tokens of each word, in the order of the prompt."""
    columns = torch.zeros(len(prompt.token_ids), len(prompt.words))
    for i, word in enumerate(prompt.words):
        columns[list(word.positions), i] = 1
    return columns


def _address(image: Image.Image, form: str) -> str:
    """An image as an address that holds it."""
    written = io.BytesIO()
    image.save(written, form)
    data = base64.b64encode(written.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{data}"
