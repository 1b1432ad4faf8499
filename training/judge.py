"""A small classifier of scenes: it names object, colour, place and style of a picture."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from demo import scenes

WEIGHTS = Path(__file__).with_name("judge.safetensors")
ANSWERS: dict[str, tuple[str, ...]] = {
    "object": tuple(scenes.OBJECTS),
    "colour": tuple(scenes.COLOURS),
    "place": scenes.PLACES,
    "style": scenes.STYLES,
}
WIDTHS = (3, 24, 48, 96, 128)


class Judge(nn.Module):
    """Pictures [B, 3, 128, 128] in 0..1 to the logits of every answer, one after another."""

    def __init__(self) -> None:
        super().__init__()
        stages = [
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(8, o), nn.SiLU(),
                          nn.Conv2d(o, o, 3, padding=1), nn.GroupNorm(8, o), nn.SiLU())
            for i, o in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
        ]
        self.features = nn.Sequential(*stages)
        self.answer = nn.Linear(2 * WIDTHS[-1], sum(len(names) for names in ANSWERS.values()))

    def forward(self, images: Tensor) -> Tensor:
        found = self.features(images * 2 - 1).flatten(2)
        return self.answer(torch.cat([found.mean(-1), found.amax(-1)], dim=-1))


def split(logits: Tensor) -> dict[str, Tensor]:
    """Logits by question."""
    parts = logits.split([len(names) for names in ANSWERS.values()], dim=-1)
    return dict(zip(ANSWERS, parts, strict=True))


def truth(drawn: list[scenes.Scene]) -> dict[str, Tensor]:
    """The right answers of scenes, as indices."""
    said = [(*scene.triple, scene.style) for scene in drawn]
    return {question: torch.tensor([names.index(row[i]) for row in said])
            for i, (question, names) in enumerate(ANSWERS.items())}


def loss(logits: Tensor, right: dict[str, Tensor]) -> Tensor:
    """The sum of the questions' cross-entropies."""
    return torch.stack([F.cross_entropy(part, right[q]) for q, part in split(logits).items()]).sum()


@torch.no_grad()
def name(judge: Judge, images: Tensor) -> list[dict[str, str]]:
    """What the judge sees in pictures [B, 3, 128, 128] in 0..1, an answer to each question."""
    chosen = {q: part.argmax(-1).tolist() for q, part in split(judge(images)).items()}
    return [{q: ANSWERS[q][chosen[q][row]] for q in ANSWERS} for row in range(len(images))]


@torch.no_grad()
def describe(judge: Judge, images: Tensor) -> Tensor:
    """Features [B, 64, 128] of pictures [B, 128, 128, 3] in 0..1, one for each place of 16x16."""
    return judge.features(images.movedim(-1, 1) * 2 - 1).flatten(2).transpose(1, 2)


def load() -> Judge:
    """The trained judge."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return judge.eval().requires_grad_(False)
