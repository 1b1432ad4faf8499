"""A job on a server, with a stand-in that shows every edit as the picture it was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edits import work
from edits.client import Client
from edits.graphs import Prompt, Settings
from edits.methods import method
from edits.rows import Row, Table
from edits.running import Run
from edits.work import Job, Outcome


class Mirror(Client):
    """Knows no meters; what it paints is the source, once for every picture of a batch."""

    def __init__(self) -> None:
        self.source = b""

    def upload_image(self, name: str, data: bytes) -> str:
        self.source = data
        return name

    def run(self, prompt: Prompt, prompt_id: str) -> dict[str, Any]:
        return {"prompt": prompt, "outputs": {}}

    def images(self, run: dict[str, Any]) -> dict[str, list[bytes]]:
        return {node: [self.source] * 9 for node in run["prompt"]}


class Alone:
    """The only worker, over the stand-in."""

    name = "alone"

    def run(self, job: Job) -> list[Outcome]:
        return work.run(Mirror(), job)

    def recover(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    found = []
    for number in range(3):
        path = tmp_path / f"photo{number}.png"
        Image.new("RGB", (16, 16), (number, 0, 0)).save(path)
        found.append(Row(f"edit{number}", path, "a cat", "a tiger"))
    return found


def failures_of(rows: list[Row], out: Path) -> list[str]:
    run = Run(Table(tuple(rows), ()), [method("ddim")], Settings(side=16), out,
              measured=lambda seen: {})
    assert run.finish([Alone()]) == bool(run.failures)
    assert {path.stem for path in out.glob("*.png")} == {
        row.name for row in rows if not any(row.name in one.row for one in run.failures)}
    return [f"{one.row}: {one.message}" for one in run.failures]


def broken(path: Path) -> Path:
    """A PNG whose last chunk of pixels has a name that no chunk can have."""
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    front, behind = path.read_bytes().rsplit(b"IDAT", 1)
    path.write_bytes(front + b"\x00DAT" + behind)
    with pytest.raises(SyntaxError), Image.open(path) as image:
        image.load()
    return path


def test_a_damaged_picture_among_good_ones_is_one_failure(rows: list[Row], tmp_path: Path) -> None:
    path = broken(rows[1].image)
    (said,) = failures_of(rows, tmp_path / "out")
    assert said.startswith(f"edit1, ddim: the picture '{path}' cannot be read: ")


def test_a_damaged_true_edit_is_one_failure_that_names_it(rows: list[Row], tmp_path: Path) -> None:
    path = broken(tmp_path / "true.png")
    rows[1] = replace(rows[1], truth=path)
    (said,) = failures_of(rows, tmp_path / "out")
    assert said.startswith(
        f"edit1, ddim: it cannot be measured: the picture '{path}' cannot be read: ")
