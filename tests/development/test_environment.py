"""Set-up without a network: set-ups that are interrupted, failures as one sentence."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from development import environment, places
from development.environment import HOST_VERSION, SetupError


def test_pins_are_exact_and_decide_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in environment.PINS.read_text().splitlines() if line[0] != "#"]
    names = {line.split("==")[0] for line in lines}
    assert {"torch", "torchvision", "torchaudio", *environment.TOOLS} <= names
    assert all(line.count("==") == 1 for line in lines)
    keys = {environment.pins_key(version) for version in environment.CARRIERS}
    assert len(keys) == len(environment.CARRIERS) and environment.pins_key() in keys
    changed = tmp_path / "pins.txt"
    changed.write_text(environment.PINS.read_text() + "another==1.0\n")
    monkeypatch.setattr(environment, "PINS", changed)
    assert environment.pins_key() not in keys


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("x-1.0/vendor/ComfyUI/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


HOST_FILES = {"x-1.0/setup.py": "no", "x-1.0/vendor/ComfyUI/main.py": "yes",
              "x-1.0/vendor/ComfyUI/a/b.py": "b", "x-1.0/vendor/ComfyUI/requirements.txt": "torch"}


def test_unpack_takes_one_folder_and_neither_links_nor_names_that_lead_elsewhere(
    tmp_path: Path
) -> None:
    (tmp_path / "archive").mkdir()
    evil = {"x-1.0/vendor/ComfyUI/../../../evil": "no", "x-1.0/vendor/ComfyUI/../evil": "no"}
    environment.unpack(archive(tmp_path / "archive" / "x.tar.gz", {**HOST_FILES, **evil}),
                       tmp_path / "host")
    found = {p.relative_to(tmp_path / "host").as_posix() for p in (tmp_path / "host").rglob("*")}
    assert found == {"main.py", "requirements.txt", "a", "a/b.py"}
    assert not list(tmp_path.rglob("evil"))


class Programs:
    """Stands in for pip and uv: notes what is called, makes what is wanted, fails when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails_at = ""

    def __call__(self, cache: Path, what: str, command: Sequence[str]) -> None:
        self.calls.append(what)
        if self.fails_at and self.fails_at in what:
            raise SetupError(f"no network while {what}")
        if "virtual environment of" in what:
            (Path(command[-1]) / environment.VENV_PYTHON).parent.mkdir(parents=True)
            (Path(command[-1]) / environment.VENV_PYTHON).touch()
            (Path(command[-1]) / "pyvenv.cfg").write_text("version_info = 3.11.7\n")
        elif "virtual environment" in what:
            Path(command[-1]).mkdir()
        elif "ComfyUI" in what and "-d" in command:
            archive(Path(command[command.index("-d") + 1]) / "x.tar.gz", HOST_FILES)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("STYLEDIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "find_interpreter", lambda uv: "/usr/bin/python3.11")
    monkeypatch.setattr(environment, "gigabytes_free", lambda folder: 20.0)
    programs = Programs()
    monkeypatch.setattr(environment, "call", programs)
    return programs


def test_a_set_up_is_done_once_and_a_part_that_is_lost_is_made_anew(programs: Programs) -> None:
    told: list[str] = []
    found = environment.ensure(told.append)
    assert (found.host / "main.py").read_text() == "yes" and found.python.exists()
    assert [path.name for path in found.cache.glob("*") if path.is_dir()] == [
        environment.pins_key()]
    assert "Setting up ComfyUI 0.30.0" in told[0]
    calls = len(programs.calls)
    assert environment.ensure(told.append) == found and len(programs.calls) == calls
    (found.host / "main.py").unlink()
    assert (environment.ensure().host / "main.py").exists() and len(programs.calls) == 2 * calls


@pytest.mark.parametrize("what", ["fetching uv", "of Python", "fetching ComfyUI", "torch"])
def test_what_a_set_up_that_failed_has_left_is_no_environment_and_goes_with_the_next(
    programs: Programs, what: str
) -> None:
    programs.fails_at = what
    with pytest.raises(SetupError, match="no network while"):
        environment.ensure()
    cache = places.cache_root()
    assert not (cache / environment.pins_key()).exists()
    (left,) = cache.glob(environment.UNFINISHED + "*")
    programs.fails_at = ""
    assert environment.ensure().is_complete() and not left.exists()


def test_another_version_of_the_host_has_an_environment_of_its_own(programs: Programs) -> None:
    usual, other = environment.ensure(), environment.ensure(print, "0.24.0")
    assert usual != other and usual.is_complete() and other.is_complete()
    with pytest.raises(SetupError, match=r"ComfyUI 0\.1 cannot be had; these can: 0\.30\.0, "):
        environment.ensure(print, "0.1")


def test_low_disk_is_told_before_anything_is_done(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "gigabytes_free", lambda folder: 2.5)
    with pytest.raises(SetupError, match=r"needs 9 GB in .* 2\.5 GB are free"):
        environment.ensure()
    assert programs.calls == []
    (places.cache_root() / "uv").mkdir()
    environment.ensure()


def test_a_cache_that_cannot_be_made_is_one_sentence(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STYLEDIFFUSION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SetupError, match="STYLEDIFFUSION_CACHE moves it"):
        environment.ensure()


def test_a_program_that_fails_has_told_why_and_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import os, sys; print(os.environ['UV_CACHE_DIR'], file=sys.stderr); sys.exit(2)"
    with pytest.raises(SetupError, match=r"failed while fetching uv.*GB are free") as caught:
        environment.call(tmp_path, "fetching uv", [sys.executable, "-c", code])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err.strip() == str(tmp_path / "uv")


@pytest.mark.parametrize("version, minor, machine, exact, constrained", [
    (HOST_VERSION, 11, "x86_64", True, True),
    (HOST_VERSION, 12, "x86_64", False, False),
    (HOST_VERSION, 11, "aarch64", False, False),
    ("0.24.0", 11, "x86_64", False, True),
])
def test_the_exact_set_is_installed_where_it_was_proven_and_else_what_the_host_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, minor: int, machine: str,
    exact: bool, constrained: bool,
) -> None:
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text(f"version_info = 3.{minor}.7\n")
    asked = environment.packages(version, tmp_path / "venv", tmp_path / "host")
    if exact:
        assert asked == ["--no-deps", "-r", str(environment.PINS)]
        return
    assert {"torch", "-r", str(tmp_path / "host" / "requirements.txt")} <= set(asked)
    assert any(re.fullmatch(r"pytest==[\d.]+", part) for part in asked)
    kept = Path(asked[asked.index("--constraints") + 1]).read_text()
    assert ("torch==" in kept) == constrained and "comfy" not in kept


def test_second_set_up_waits_for_the_first(tmp_path: Path) -> None:
    told: list[str] = []
    got = threading.Event()

    def second() -> None:
        with environment.alone(tmp_path, told.append):
            got.set()

    with environment.alone(tmp_path, print):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.4)
        assert not got.is_set()
    thread.join(10)
    assert got.is_set()
    assert told == ["Another set-up is running; waiting for it to end."]


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(places.ROOT)!r})
from pathlib import Path
from development.environment import alone
with alone(Path({str(tmp_path)!r}), print):
    print("locked", flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"locked\n"
    other.kill()
    other.wait()
    other.stdout.close()
    told: list[str] = []
    with environment.alone(tmp_path, told.append):
        pass
    assert told == []


@pytest.mark.skipif(sys.platform == "win32", reason="shells there start nothing deaf to Ctrl-C")
def test_what_a_shell_has_started_in_the_background_can_be_interrupted_all_the_same() -> None:
    code = """
import signal, dev
dev.dispatch = lambda *rest: print(signal.getsignal(signal.SIGINT).__name__) or 0
dev.main(["serve"])
"""
    shell = ["sh", "-c", '"$0" -c "$1" & wait', sys.executable, code]
    said = subprocess.run(shell, cwd=places.ROOT, capture_output=True, text=True)
    assert said.stdout == "default_int_handler\n"


def test_interpreter_is_311_then_this_one_then_another_and_else_one_that_uv_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, str] = {}

    def asked(command: list[str], **options: object) -> SimpleNamespace:
        found = there.get(command[-1])
        return SimpleNamespace(returncode=0 if found else 2, stdout=f"{found}\n")

    monkeypatch.setattr(environment.subprocess, "run", asked)
    monkeypatch.setattr(environment.sys, "executable", "/running")
    for running, found, expected in (
        ((3, 12), {"3.11": "/eleven", "/running": "/running"}, "/eleven"),
        ((3, 13), {"/running": "/running", ">=3.10,<3.14": "/twelve"}, "/running"),
        ((3, 9), {"/running": "/running", ">=3.10,<3.14": "/twelve"}, "/twelve"),
        ((3, 14), {"/running": "/running", ">=3.10,<3.14": "/ten"}, "/ten"),
        ((3, 9), {}, "3.11"),
    ):
        there.clear()
        there.update(found)
        monkeypatch.setattr(environment.sys, "version_info", running)
        assert environment.find_interpreter(["uv"]) == expected
