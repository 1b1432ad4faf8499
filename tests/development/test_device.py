"""Where dev.py's commands work: on the accelerator that torch sees, with --cpu on the CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management
import pytest
import torch

import dev
from development import device, environment
from tests import golden

HERE = Path(sys.executable)


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked for the CPU, and nothing is remembered of this machine."""
    monkeypatch.setenv(device.VARIABLE, "")
    monkeypatch.setattr(device, "_sees_accelerator", device._sees_accelerator.__wrapped__)


def seen(monkeypatch: pytest.MonkeyPatch, accelerator: bool) -> None:
    """Have torch see one, or none."""
    monkeypatch.setattr(device, "accelerated", lambda: accelerator)


@pytest.mark.parametrize("accelerator, asked, expected", [
    (True, "", []), (True, "0", []), (True, "1", ["--cpu"]),
    (False, "", ["--cpu"]), (False, "1", ["--cpu"]),
])
def test_the_host_is_told_to_keep_to_the_cpu_where_it_is_wanted_or_all_there_is(
    accelerator: bool, asked: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(monkeypatch, accelerator)
    monkeypatch.setenv("STYLEDIFFUSION_CPU", asked)
    assert device.host_arguments(HERE) == expected


def test_any_accelerator_that_torch_sees_counts_with_an_older_torch_too(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda there=there: there)
        assert device.accelerated() == there
    monkeypatch.delattr(torch, "accelerator")
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert device.accelerated() == there


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins for Python are shell scripts")
@pytest.mark.parametrize("says, expected", [
    ("echo True", []), ("echo False", ["--cpu"]), ("echo no torch >&2; exit 1", ["--cpu"]),
])
def test_another_python_is_asked_what_its_torch_sees(
    says: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(monkeypatch, expected != [])
    other = tmp_path / "python"
    other.write_text(f"#!/bin/sh\n{says}\n")
    other.chmod(0o755)
    assert device.host_arguments(other) == expected


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What dev.py has started, each with what its children read in the variable."""
    started: list[tuple[Any, ...]] = []

    def note(*what: Any) -> int:
        started.append((*what, os.environ[device.VARIABLE]))
        return 0

    class Found(environment.Environment):
        def run(self, module: str, *arguments: str) -> int:
            return note(module, *arguments)

    found = Found(HERE, Path("host"), HERE.parent)
    monkeypatch.setattr(environment, "ensure", lambda report, version: found)
    return started


@pytest.mark.parametrize("command, started", [
    (["demo", "--out", "/there"], ("training.demo", "--out", "/there")),
    (["test", "tests/nodes", "-n", "0"],
     ("pytest", "-n", "auto", "--dist", "loadfile", "tests/nodes", "-n", "0")),
    (["serve", "--no-browser"], ("development.serve", "--no-browser")),
    (["bench", "edit", "--only", "demo"], ("bench.edit", "--only", "demo")),
    (["train", "--stage", "vae"], ("training.train", "--stage", "vae")),
])
@pytest.mark.parametrize("place", [None, 1, -1])
def test_cpu_is_taken_out_of_the_arguments_and_passed_on_in_the_variable(
    command: list[str], started: tuple[Any, ...], place: int | None, ran: list[tuple[Any, ...]]
) -> None:
    if place is not None:
        command = [*command]
        command.insert(1 if place == 1 else len(command), "--cpu")
    assert dev.dispatch(command[0], command[1:]) == 0
    assert ran == [(*started, "" if place is None else "1")]


@pytest.mark.parametrize("command", ["graphs", "locales", "pictures", "evaluate"])
def test_all_other_commands_keep_to_the_cpu(command: str, ran: list[tuple[Any, ...]]) -> None:
    assert dev.dispatch(command, []) == 0
    assert [run[-1] for run in ran] == ["1"]


def test_the_help_names_the_option_and_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "--cpu" in told and f"{device.VARIABLE}=1" in told


def test_the_tests_own_models_work_where_the_host_does() -> None:
    where = comfy.model_management.get_torch_device()
    assert (where.type == "cpu") == comfy.cli_args.args.cpu
    assert golden.load_unet().load_device == where


def test_a_clock_waits_for_the_accelerator_and_a_cpu_for_nothing(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import timing

    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(
            comfy.model_management, "get_torch_device", lambda kind=kind: torch.device(kind))
        assert timing.seconds(lambda: waited.append("work")) >= 0
    assert waited == ["work", "cuda", "work", "cuda"]
