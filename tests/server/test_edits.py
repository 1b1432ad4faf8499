"""A table of edits over real servers: every method's graph, bad rows, and a server that dies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo import drawing, scenes
from development.environment import ensure
from development.server import Server
from edits import graphs
from edits.client import Client
from edits.methods import INVERSIONS, method
from edits.rows import Row, Table
from edits.running import Run
from edits.workers import UrlWorker
from tests.bases import base_directory
from training.trials import TESTS

SETTINGS = graphs.Settings(side=128, steps=3, blend=(0.1, 0.2, 1))
BAD = "zebra"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Two edits of each of four scenes."""
    folder, found = tmp_path_factory.mktemp("table"), []
    for number, trial in enumerate(TESTS[:4]):
        path = folder / f"scene{number}.png"
        drawing.draw(trial.scene).save(path)
        found += [Row(f"scene{number}/{kind}", path, scenes.caption(trial.scene),
                      scenes.caption(edit), trial.object)
                  for kind, edit in zip(("colour", "object"), trial.edits, strict=True)]
    return Table(tuple(found), ())


@pytest.mark.parametrize("name", INVERSIONS)
def test_every_graph_has_nodes_and_inputs_that_the_server_knows(
    server: Server, table: Table, name: str
) -> None:
    entries = [graphs.Entry(row, method(name)) for row in table.rows[:2]]
    info = Client(server.url).object_info()
    for settings in (SETTINGS, graphs.Settings("sd15.safetensors", "vit.safetensors")):
        made = graphs.graph(entries, "photo.png", settings)
        for node in made.prompt.values():
            known = info[node["class_type"]]["input"]
            needed = known.get("required", {})
            assert set(node["inputs"]) <= {*needed, *known.get("optional", {})}
            assert set(node["inputs"]) >= set(needed)
            for linked in node["inputs"].values():
                assert not isinstance(linked, list) or linked[0] in made.prompt
        assert len({(place.node, place.picture) for place in made.places}) == 2
        kinds = [node["class_type"] for node in made.prompt.values()]
        assert sum("Learn" in kind or "Invert" in kind for kind in kinds) <= 2


def pixels(folder: Path, table: Table) -> dict[str, Any]:
    return {row.name: np.asarray(Image.open(folder / f"{row.name}.png")) for row in table.rows}


class Second(Server):
    """Another server beside that of all tests, which can be killed as a machine dies."""

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@pytest.fixture
def second() -> Iterator[Second]:
    environment = ensure()
    base = base_directory(environment, "second")
    with Second(environment.python, environment.host, base) as running:
        yield running


def jobs_of(server: Server, status: str) -> list[str]:
    return [job["id"] for job in server.get_json(f"/api/jobs?status={status}")["jobs"]]


def test_a_killed_servers_row_is_done_by_the_other_as_one_alone_does_it(
    server: Server, second: Second, table: Table, tmp_path: Path
) -> None:
    bad = Row("scene0/bad", table.rows[0].image, table.rows[0].prompt, table.rows[0].target, BAD)
    whole = Table((bad, *table.rows), ())
    workers = [UrlWorker(server.url), UrlWorker(second.url)]
    workers[1].recover = lambda: False  # type: ignore[method-assign]
    doomed: list[str] = []

    def kill() -> None:
        while not doomed:
            doomed.extend(jobs_of(second, "in_progress"))
            time.sleep(0.02)
        second.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    run = Run(whole, [method("ddim")], SETTINGS, tmp_path / "both")
    assert run.finish(workers) == 1
    killer.join()
    assert len(doomed) == 1
    failures = (tmp_path / "both" / "failures.csv").read_text().splitlines()
    assert len(failures) == 2
    assert "P2PlusController: 'zebra', written in blend_words, is not in" in failures[1]
    alone = Run(table, [method("ddim")], SETTINGS, tmp_path / "alone")
    assert alone.finish([UrlWorker(server.url)]) == 0
    both, one = pixels(tmp_path / "both", table), pixels(tmp_path / "alone", table)
    for row in table.rows[2:]:  # beside a refused row those of scene0 are batches of one
        assert np.array_equal(both[row.name], one[row.name])
    assert doomed[0] in jobs_of(server, "completed")


def test_a_finished_row_is_not_queued_again_and_a_known_prompt_is_waited_for(
    server: Server, table: Table, tmp_path: Path
) -> None:
    first = Table(table.rows[:2], ())
    run = Run(first, [method("ddim")], SETTINGS, tmp_path)
    assert run.finish([UrlWorker(server.url)]) == 0
    before = len(jobs_of(server, "completed"))
    assert Run(first, [method("ddim")], SETTINGS, tmp_path).jobs() == []
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert Run(first, [method("ddim")], SETTINGS, tmp_path).finish([UrlWorker(server.url)]) == 0
    assert len(jobs_of(server, "completed")) == before
    told = json.loads(Image.open(tmp_path / "scene0" / "colour.png").info["stylediffusion_edit"])
    assert told["method"] == "ddim"
    assert told["psnr_reconstruction"] > 8
