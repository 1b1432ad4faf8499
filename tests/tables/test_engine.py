"""Spreading jobs over workers that come and go, and going on from files."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from edits import pictures
from edits.client import WorkerLost
from edits.engine import Engine, Unfinished, Worker
from edits.graphs import Settings
from edits.methods import method
from edits.rows import Row, Table, read
from edits.running import Run
from edits.work import Job, Outcome, Picture, failed

SETTINGS = Settings(steps=2)


class Stub:
    """A worker that paints each row in a colour of its own, and is lost when it is told so."""

    def __init__(
        self, lost_at: tuple[int, ...] = (), back: bool = False, refuses: str = ""
    ) -> None:
        self.name, self.back, self.refuses = "stub", back, refuses
        self.lost_at, self.calls, self.done = lost_at, 0, Counter[str]()
        self.closed = False

    def run(self, job: Job) -> list[Outcome]:
        self.calls += 1
        if self.calls in self.lost_at:
            raise WorkerLost("it is gone")
        found: list[Outcome] = []
        for entry, digest in zip(job.entries, job.digests, strict=True):
            self.done[entry.row.name] += 1
            if entry.row.target == self.refuses:
                found.append(failed(entry, "the node says no"))
            else:
                image = Image.new("RGB", (8, 8), (len(entry.row.target), 0, 0))
                found.append(Picture(entry, pictures.png(image, {
                    "name": entry.row.name, "method": entry.method.name, "digest": digest})))
        return found

    def recover(self) -> bool:
        return self.back

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def table(tmp_path: Path) -> Table:
    found = []
    for number in range(6):
        path = tmp_path / f"photo{number // 2}.png"
        Image.new("RGB", (8, 8), (number // 2, 0, 0)).save(path)
        found.append(Row(f"edit{number}", path, "a cat", f"a {'big ' * number}cat"))
    return Table(tuple(found), ())


def run_of(table: Table, out: Path) -> Run:
    return Run(table, [method("ddim")], SETTINGS, out)


def total(*workers: Stub) -> Counter[str]:
    found: Counter[str] = Counter()
    for worker in workers:
        found += worker.done
    return found


def test_edits_of_one_picture_are_one_job(table: Table, tmp_path: Path) -> None:
    jobs = run_of(table, tmp_path / "out").jobs()
    assert [[entry.row.name for entry in job.entries] for (job,) in jobs] == [
        ["edit0", "edit1"], ["edit2", "edit3"], ["edit4", "edit5"]]


def test_all_jobs_of_a_picture_go_to_one_worker_and_what_is_left_of_them_to_another(
    table: Table, tmp_path: Path
) -> None:
    names = ("ddim", "null-text", "text-embedding")
    lost, other = Stub(lost_at=(2,)), Stub()
    run = Run(table, [method(name) for name in names], SETTINGS, tmp_path / "out")
    assert run.finish([lost, other]) == 0
    assert total(lost, other) == Counter({f"edit{n}": 3 for n in range(6)})
    assert sorted(lost.done.values()) == [1, 1]
    assert sorted(other.done.values()) == [2, 2, 3, 3, 3, 3]


def test_methods_that_learn_the_same_are_one_job(table: Table, tmp_path: Path) -> None:
    names = ("ddim", "direct+p2plus", "null-text+p2p", "null-text+p2plus")
    run = Run(table, [method(name) for name in names], SETTINGS, tmp_path / "out")
    first, second = run.jobs()[0]
    assert {entry.method.name for entry in first.entries} == {"ddim", "direct+p2plus"}
    assert {entry.method.name for entry in second.entries} == {
        "null-text+p2p", "null-text+p2plus"}
    assert {entry.row.image for entry in (*first.entries, *second.entries)} == {
        table.rows[0].image}


def test_a_lost_workers_job_is_done_by_another_and_everything_once(
    table: Table, tmp_path: Path
) -> None:
    lost, other = Stub(lost_at=(1,)), Stub()
    assert run_of(table, tmp_path / "out").finish([lost, other]) == 0
    assert total(lost, other) == Counter({f"edit{n}": 1 for n in range(6)})
    assert lost.closed and other.closed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"edit{n}.png" for n in range(6)), "edits.csv", "failures.csv"}


def test_without_workers_the_run_ends_and_the_next_one_goes_on(
    table: Table, tmp_path: Path
) -> None:
    first, second = Stub(lost_at=(2,)), Stub()
    with pytest.raises(Unfinished, match="2 jobs are not done"):
        run_of(table, tmp_path / "out").finish([first])
    assert (tmp_path / "out" / "edits.csv").read_text().splitlines() == [
        "name,method", "edit0,ddim", "edit1,ddim"]
    assert run_of(table, tmp_path / "out").finish([second]) == 0
    assert total(first, second) == Counter({f"edit{n}": 1 for n in range(6)})


def test_a_worker_that_comes_back_goes_on(table: Table, tmp_path: Path) -> None:
    worker = Stub(lost_at=(1, 3), back=True)
    assert run_of(table, tmp_path / "out").finish([worker]) == 0
    assert worker.done == Counter({f"edit{n}": 1 for n in range(6)})


def test_a_job_that_loses_every_worker_fails_alone(table: Table, tmp_path: Path) -> None:
    worker = Stub(lost_at=(1, 2, 3), back=True)
    assert run_of(table, tmp_path / "out").finish([worker]) == 1
    assert worker.done == Counter({f"edit{n}": 1 for n in range(2, 6)})
    failures = (tmp_path / "out" / "failures.csv").read_text()
    assert failures.count("its worker was lost 3 times, at last so: it is gone") == 2


def test_a_refused_row_is_a_line_with_the_nodes_words_and_is_tried_again(
    table: Table, tmp_path: Path
) -> None:
    assert run_of(table, tmp_path / "out").finish([Stub(refuses="a big cat")]) == 1
    assert (tmp_path / "out" / "failures.csv").read_text().splitlines() == [
        "row,image,target,message",
        f'"edit1, ddim",{table.rows[1].image},a big cat,the node says no']
    again = Stub()
    assert run_of(table, tmp_path / "out").finish([again]) == 0
    assert again.done == Counter(["edit1"])
    assert len((tmp_path / "out" / "failures.csv").read_text().splitlines()) == 1


def test_what_changed_is_done_again_and_nothing_else(table: Table, tmp_path: Path) -> None:
    run_of(table, tmp_path / "out").finish([Stub()])
    (tmp_path / "out" / "edit3.png").write_bytes(b"half a pict")
    changed = (*table.rows[:5], Row("edit5", table.rows[5].image, "a cat", "a dog"))
    again = Stub()
    run_of(Table(changed, ()), tmp_path / "out").finish([again])
    assert again.done == Counter(["edit3", "edit5"])


def test_a_folder_that_holds_its_own_edits_is_done_after_one_run(tmp_path: Path) -> None:
    out = tmp_path / "edited"
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "photo.txt").write_text("a cat\na big cat\na dog\n")
    assert run_of(read(tmp_path, out), out).finish([Stub()]) == 0
    again = run_of(read(tmp_path, out), out)
    assert again.jobs() == []
    assert again.finish([]) == 0
    assert {path.name for path in out.iterdir()} == {
        "photo_1.png", "photo_2.png", "edits.csv", "failures.csv"}


@pytest.mark.parametrize(("refused", "file"), [("", "edits.csv"), ("a dog", "failures.csv")])
def test_a_file_name_that_is_not_utf_8_stops_no_table(
    table: Table, tmp_path: Path, refused: str, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "caf\udce9.png"  # as Python has a byte that is no UTF-8
    path.write_bytes(table.rows[0].image.read_bytes())
    odd = Row("caf\udce9", path, "a cat", "a dog")
    run = run_of(Table((odd, *table.rows), ()), tmp_path / "out")
    assert run.finish([Stub(refuses=refused)]) == bool(refused)
    assert "caf\\udce9" in (tmp_path / "out" / file).read_text()
    assert ("The first, caf\\udce9, ddim: the" in capfd.readouterr().out) == bool(refused)


def test_a_worker_that_is_waited_for_does_not_hold_up_the_end(table: Table, tmp_path: Path) -> None:
    class Hopeful(Stub):
        def recover(self) -> bool:
            time.sleep(60)
            return False

    started = time.monotonic()
    assert run_of(table, tmp_path / "out").finish([Hopeful(lost_at=(1,)), Stub()]) == 0
    assert time.monotonic() - started < 30


def test_an_error_of_ours_ends_the_run_and_closes_the_workers() -> None:
    class Broken(Stub):
        def run(self, job: Job) -> list[Outcome]:
            raise ZeroDivisionError

    idle, broken = Stub(), Broken()
    workers: list[Worker] = [broken, idle]
    job = Job((), SETTINGS, ())
    with pytest.raises(ZeroDivisionError):
        Engine([[job]], lambda job, outcomes: None).run(workers)
    assert idle.closed and broken.closed
