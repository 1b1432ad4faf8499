"""The same edits on a local Ray, one of whose actors is killed in the middle."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import drawing, scenes
from edits.graphs import Settings
from edits.methods import method
from edits.ray_workers import MISSING, ray_workers
from edits.rows import Row, Table
from edits.running import Run
from edits.workers import OwnWorker, Start
from training.trials import TESTS

ray = pytest.importorskip("ray", reason=MISSING)
SETTINGS = Settings(side=128, steps=8, blend=(0.2, 0.1, 1))


def test_an_actor_that_is_killed_costs_its_row_and_no_picture_changes(tmp_path: Path) -> None:
    found = []
    for number, trial in enumerate(TESTS[:6]):
        path = tmp_path / f"scene{number}.png"
        drawing.draw(trial.scene).save(path)
        found.append(Row(f"scene{number}", path, scenes.caption(trial.scene),
                         scenes.caption(trial.edits[0]), trial.object))
    table = Table(tuple(found), ())
    workers = ray_workers("local", 2, Start())
    calls: list[str] = []

    def kill() -> None:
        while not any((tmp_path / "ray").glob("*.png")):
            time.sleep(0.1)
        calls.append("killed")
        ray.kill(workers[0].actor, no_restart=False)

    killer = threading.Thread(target=kill)
    killer.start()
    assert Run(table, [method("ddim")], SETTINGS, tmp_path / "ray").finish(workers) == 0
    killer.join()
    ray.shutdown()
    assert calls == ["killed"]
    assert Run(table, [method("ddim")], SETTINGS, tmp_path / "alone").finish(
        [OwnWorker(0, Start())]) == 0
    for row in table.rows:
        both, one = (np.asarray(Image.open(tmp_path / folder / f"{row.name}.png"))
                     for folder in ("ray", "alone"))
        assert np.array_equal(both, one)
