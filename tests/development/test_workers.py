"""How the tests are shared out among pytest-xdist's workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from development.environment import Environment
from tests import bases, conftest


def configured(*arguments: str, collectonly: bool = False) -> Any:
    return SimpleNamespace(args=list(arguments), option=SimpleNamespace(collectonly=collectonly))


@pytest.mark.parametrize("arguments, workers", [
    (["tests"], 2),
    (["tests/host", "tests/method"], 2),
    (["tests/host/test_text.py", "tests/method/test_files.py"], 2),
    (["tests/host/test_text.py"], 0),
    (["tests/host/test_text.py::test_a", "tests/host/test_text.py::test_b"], 0),
])
def test_two_workers_and_none_for_a_single_file(
    arguments: list[str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert conftest.pytest_xdist_auto_num_workers(configured(*arguments)) == workers


def test_no_workers_where_nothing_is_run_or_there_is_one_core(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    only_listed = configured("tests", collectonly=True)
    assert conftest.pytest_xdist_auto_num_workers(only_listed) == 0
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert conftest.pytest_xdist_auto_num_workers(configured("tests")) == 0


def test_every_worker_has_base_directories_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, bases_found = Environment(Path(sys.executable), tmp_path, tmp_path), set()
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    bases_found.add(bases.base_directory(found, "test"))
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        bases_found.add(bases.base_directory(found, "test"))
    assert len(bases_found) == 3 and all(base.is_dir() for base in bases_found)


def test_the_page_stays_with_one_worker_any_other_file_with_one_and_all_in_their_order() -> None:
    pytest.importorskip("xdist")
    config = SimpleNamespace(
        option=SimpleNamespace(tx=["popen"] * 2), getoption=lambda name: "loadfile",
        getvalue=lambda name: ["popen"] * 2 if name == "tx" else None)
    scheduler = conftest.pytest_xdist_make_scheduler(config, None)
    assert config.option.loadscopereorder is False
    scopes = [scheduler._split_scope(f"{file}::test_a") for file in (
        "tests/browser/test_page.py", "tests/browser/test_words.py",
        "tests/server/test_log.py", "tests/server/test_saving.py")]
    assert scopes[0] == scopes[1] and len(set(scopes)) == 3
    assert scopes[2] == scheduler._split_scope("tests/server/test_log.py::test_b[x::y]")
