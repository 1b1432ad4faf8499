"""The sixty edits whose truth is known, as a table that `dev.py edits` reads too."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from demo import drawing, scenes
from edits.measuring import Seen, measure, one
from stylediffusion.measures.structure import spatial_descriptors, structure_distance
from training import judge
from training.unseen_edits import SceneEdit, chosen_edits

COLUMNS = ("prompt", "image_path", "target", "blend_word", "edit_type", "true_edit")


def write(folder: Path) -> Path:
    """Draw all sources and true edits into a folder, with table.csv beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for number, edits in enumerate(chosen_edits(), 1):
            writer.writerows(_lines(folder, f"scene{number:02d}", edits))
    return path


def _lines(folder: Path, name: str, edits: list[SceneEdit]) -> Iterator[dict[str, str]]:
    source = f"{name}.png"
    drawing.draw(edits[0].scene).save(folder / source)
    for edit in edits:
        truth = f"{name}_true_{edit.kind}.png"
        drawing.draw(edit.wanted).save(folder / truth)
        yield {"prompt": scenes.caption(edit.scene), "image_path": source,
               "target": scenes.caption(edit.wanted), "blend_word": edit.blend_words,
               "edit_type": edit.kind, "true_edit": truth}


@torch.no_grad()
def measure_demo(seen: Seen) -> dict[str, Any]:
    """The numbers of any table, and two that the judge of the demo scenes gives.

    structure_distance_judge: on the features of its last stage, between edit and source. right: it
    names object, colour, place and style of the edit as it does those of the true edit.
    """
    found, looking = measure(seen), judge.load()

    def describe(pictures: torch.Tensor) -> torch.Tensor:
        return spatial_descriptors(looking.features(pictures.movedim(-1, 1) * 2 - 1))

    (distance,) = structure_distance(describe, seen.source, seen.edit)
    found["structure_distance_judge"] = one([None if distance is None else 1000 * distance])
    if seen.truth is not None:
        both = torch.cat([seen.truth, seen.edit]).movedim(-1, 1)
        true, edit = judge.name(looking, both)
        found["right"] = int(true == edit)
    return found


