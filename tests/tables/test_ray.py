"""Edits on a local Ray, one of whose actors is killed in the middle of a job."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from edits import pictures
from edits.graphs import Settings
from edits.methods import method
from edits.ray_workers import MISSING, ray_workers
from edits.rows import Row, Table
from edits.running import Run
from edits.work import Job, Outcome, Picture
from edits.workers import Start

ray = pytest.importorskip("ray", reason=MISSING)
JOB_SECONDS = 0.5


class Painter:
    """Stands for a server: takes half a second, and writes down what it began and what it ended."""

    def __init__(self, number: int, start: Start) -> None:
        self.name, self.log = str(number), Path(start.models)

    def run(self, job: Job) -> list[Outcome]:
        (entry,), (digest,) = job.entries, job.digests
        self.say(f"began {entry.row.name}")
        time.sleep(JOB_SECONDS)
        data = job.read(entry.row.image)  # travelled with the job
        self.say(f"ended {entry.row.name}")
        return [Picture(entry, pictures.png(pictures.opened(data), {"digest": digest}))]

    def say(self, line: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{self.name} {line}\n")

    def recover(self) -> bool:
        return True

    def close(self) -> None:
        self.say("closed")


def test_an_actor_that_is_killed_costs_its_row_alone_and_nothing_is_done_twice(
    tmp_path: Path
) -> None:
    rows = [Row(f"edit{n}", tmp_path / f"photo{n}.png", "a cat", "a dog") for n in range(8)]
    for n, row in enumerate(rows):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(row.image)
    log = tmp_path / "log"
    log.touch()
    workers = ray_workers("local", 2, Start(models=str(log)), Painter)
    killed: list[str] = []

    def kill() -> None:
        while not killed:
            killed.extend(line[8:] for line in log.read_text().splitlines() if "0 began" in line)
        ray.kill(workers[0].actor, no_restart=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run = Run(Table(tuple(rows), ()), [method("ddim")], Settings(), tmp_path / "out")
        assert run.finish(workers) == 0
    finally:
        killer.join()
        ray.shutdown()
    said = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    ended = [line for line in said if line.startswith("ended")]
    assert sorted(ended) == [f"ended {row.name}" for row in rows]
    assert [said.count(f"began {row.name}") for row in rows] == [
        1 + (row.name == killed[0]) for row in rows]
    for n, row in enumerate(rows):
        assert Image.open(tmp_path / "out" / f"{row.name}.png").getpixel((0, 0)) == (n, 0, 0)
