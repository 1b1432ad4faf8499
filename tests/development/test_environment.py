"""Set-up without a network: places, steps that are interrupted, failures as one sentence."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import dev
from development import environment, packages, places, steps
from development.packages import Installer
from development.steps import SetupError, Step, StepList


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "~/.cache/stylediffusion"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/stylediffusion"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "~/Library/Caches/stylediffusion"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/stylediffusion"),
        ("win32", {}, "~/AppData/Local/stylediffusion"),
        ("darwin", {"STYLEDIFFUSION_CACHE": "~/mine"}, "~/mine"),
        ("win32", {"STYLEDIFFUSION_CACHE": "/mine", "LOCALAPPDATA": "/local"}, "/mine"),
    ],
)
def test_cache_root(platform: str, variables: dict[str, str], expected: str) -> None:
    assert places.cache_root(platform, variables) == Path(expected).expanduser()


def test_pins_are_exact_and_decide_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in environment.PINS.read_text().splitlines() if line[0] != "#"]
    names = {line.split("==")[0] for line in lines}
    assert {"torch", "torchvision", "torchaudio", *environment.TOOLS} <= names
    assert all(line.count("==") == 1 for line in lines)
    key = environment.pins_key()
    changed = tmp_path / "pins.txt"
    changed.write_text(environment.PINS.read_text() + "another==1.0\n")
    monkeypatch.setattr(environment, "PINS", changed)
    assert environment.pins_key() != key


def test_base_directories_are_the_clones_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    base = places.prepare_base(tmp_path, "demo", one)
    assert (base / "user/default/workflows").is_dir()
    assert (base / "custom_nodes" / places.PACK_NAME).resolve() == one
    assert places.prepare_base(tmp_path, "demo", other) != base
    assert places.prepare_base(tmp_path, "test", one) != base


@pytest.mark.parametrize("before", ["nothing", "elsewhere", "dangling", "copy"])
def test_link_is_refreshed(tmp_path: Path, before: str) -> None:
    clone, link = tmp_path / "clone", tmp_path / "link"
    clone.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.txt").touch()
    if before == "copy":
        shutil.copytree(tmp_path / "elsewhere", link)
    elif before != "nothing":
        link.symlink_to(tmp_path / before)
    places.link_pack(link, clone)
    places.link_pack(link, clone)
    assert link.resolve() == clone
    assert (tmp_path / "elsewhere" / "kept.txt").exists()


def writing(directory: Path, folder: str, ran: list[str], name: str) -> Step:
    """A step that writes a file named after itself and remembers that it ran."""

    def work() -> None:
        (directory / folder).mkdir(exist_ok=True)
        (directory / folder / name).touch()
        ran.append(name)

    return Step(name, f"Doing {name}", folder, name, 0.0, work)


def test_finished_steps_are_not_run_again(tmp_path: Path) -> None:
    ran: list[str] = []
    told: list[str] = []
    wanted = StepList(tmp_path, [writing(tmp_path, "f", ran, "one")])
    assert not wanted.finished()
    wanted.run(told.append)
    assert wanted.finished()
    wanted.run(told.append)
    assert ran == ["one"]
    assert told == ["[1/1] Doing one"]


def test_killed_step_is_redone_from_clean(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(places.ROOT)!r})
from pathlib import Path
from development.steps import Step, StepList
here = Path({str(tmp_path)!r})
def first():
    (here / "f").mkdir(); (here / "f/one").touch()
def second():
    (here / "f/half").touch(); os._exit(9)
steps = [Step("one", "", "f", "one", 0, first), Step("two", "", "f", "two", 0, second)]
StepList(here, steps).run(print)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 9
    assert (tmp_path / "f" / "half").exists()
    ran: list[str] = []
    told: list[str] = []
    wanted = [writing(tmp_path, "f", ran, name) for name in ("one", "two")]
    assert not StepList(tmp_path, wanted).finished()
    StepList(tmp_path, wanted).run(told.append)
    assert ran == ["one", "two"]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["one", "two"]
    assert "did not finish" in told[0]


def test_failed_step_is_redone_and_others_folders_stay(tmp_path: Path) -> None:
    ran: list[str] = []

    def fail() -> None:
        raise SetupError("no network")

    first = writing(tmp_path, "g", ran, "one")
    with pytest.raises(SetupError, match="no network"):
        StepList(tmp_path, [first, Step("two", "", "f", "two", 0.0, fail)]).run(print)
    StepList(tmp_path, [first, writing(tmp_path, "f", ran, "two")]).run(print)
    assert ran == ["one", "two"]


def test_step_whose_proof_is_gone_is_redone(tmp_path: Path) -> None:
    ran: list[str] = []
    wanted = StepList(tmp_path, [writing(tmp_path, "f", ran, "one")])
    wanted.run(print)
    (tmp_path / "f" / "one").unlink()
    assert not wanted.finished()
    wanted.run(print)
    assert ran == ["one", "one"]


def test_low_disk_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda _: SimpleNamespace(free=2.5e9))
    step = Step("big", "Big", "f", "x", 9.0, lambda: pytest.fail("was run"))
    with pytest.raises(SetupError, match=r"needs 9\.0 GB in .* 2\.5 GB are free"):
        StepList(tmp_path, [step]).run(print)


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    def fill() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SetupError, match="disk is full"):
        StepList(tmp_path, [Step("big", "Big", "f", "x", 0.0, fill)]).run(print)


def test_second_set_up_waits_for_the_first(tmp_path: Path) -> None:
    told: list[str] = []
    got = threading.Event()

    def second() -> None:
        with steps.locked(tmp_path / "lock", told.append, poll_seconds=0.01):
            got.set()

    with steps.locked(tmp_path / "lock", print):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        assert not got.is_set()
    thread.join(5)
    assert got.is_set()
    assert told == [f"Another set-up is running (process {os.getpid()}); waiting for it to end."]


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("999999")
    told: list[str] = []
    with steps.locked(tmp_path / "lock", told.append):
        pass
    assert told == []


def run_fake_pip(directory: Path, says: str) -> None:
    code = "import sys; print(sys.argv[1]); sys.exit(1)"
    Installer(directory, print).run([sys.executable, "-c", code, says], "fetching ComfyUI")


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ("Retrying ... Failed to establish a new connection: NewConnectionError", "not be reached"),
        ("[Errno -3] Temporary failure in name resolution", "could not be reached"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk became full"),
        ("ensurepip is not available", "has no venv module"),
        ("ERROR: No matching distribution found for torch==9.9", "gave no torch==9.9 for this"),
        ("error: metadata-generation-failed", "Something failed while fetching ComfyUI"),
    ],
)
def test_failed_command_is_one_sentence_that_names_the_log(
    tmp_path: Path, says: str, sentence: str
) -> None:
    with pytest.raises(SetupError, match=sentence) as caught:
        run_fake_pip(tmp_path, says)
    assert str(tmp_path / "setup.log") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert says in (tmp_path / "setup.log").read_text()


def test_disk_that_was_full_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    with pytest.raises(SetupError, match="disk became full"):
        run_fake_pip(tmp_path, "")


def test_only_the_failed_commands_own_words_count(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="could not be reached"):
        run_fake_pip(tmp_path, "NewConnectionError")
    with pytest.raises(SetupError, match="Something failed"):
        run_fake_pip(tmp_path, "a compiler is missing")


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("x-1.0/vendor/Host/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def test_unpack_takes_one_folder_and_no_links(tmp_path: Path) -> None:
    files = {
        "x-1.0/setup.py": "no",
        "x-1.0/vendor/Host/main.py": "yes",
        "x-1.0/vendor/Host/a/b.py": "b",
    }
    packages.unpack(archive(tmp_path / "x.tar.gz", files), "vendor/Host", tmp_path / "host")
    found = {p.relative_to(tmp_path / "host").as_posix() for p in (tmp_path / "host").rglob("*.*")}
    assert found == {"main.py", "a/b.py"}
    assert not (tmp_path / "host" / "link").exists()


def test_unpack_refuses_names_that_lead_elsewhere(tmp_path: Path) -> None:
    bad = archive(tmp_path / "x.tar.gz", {"x-1.0/vendor/Host/../../../evil": "no"})
    with pytest.raises(SetupError, match="unsafe name"):
        packages.unpack(bad, "vendor/Host", tmp_path / "host")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a ComfyUI and is named by COMFYUI_PATH."""
    (tmp_path / "ComfyUI" / "comfy").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    monkeypatch.setenv("STYLEDIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    return tmp_path / "ComfyUI"


def test_existing_host_is_used_with_this_python_and_nothing_is_installed(host: Path) -> None:
    found = environment.ensure(lambda line: pytest.fail(f"said {line}"))
    assert (found.host, found.python) == (host, Path(sys.executable))
    assert not found.cache.exists()


def test_existing_host_is_used_with_its_own_python(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = host / ".venv" / environment.VENV_PYTHON
    own.parent.mkdir(parents=True)
    own.touch()
    assert environment.existing_python(host) == own
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    assert environment.existing_python(host) == Path(sys.executable)


def test_missing_tools_of_an_existing_host_are_named(host: Path) -> None:
    environment.ensure().require("pytest")
    with pytest.raises(SetupError, match="no nonesuch and no neither: set COMFYUI.* install non"):
        environment.ensure().require("nonesuch", "pytest", "neither")


def test_workers_are_used_where_the_existing_hosts_python_has_them(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(environment.Environment, "run", lambda self, *command: ran.append(command))
    for missing in ([], ["xdist"]):
        monkeypatch.setattr(
            environment.Environment, "missing",
            lambda self, *modules, missing=missing: [m for m in modules if m in missing])
        dev.dispatch("test", ["-k", "help"])
    assert ran == [("pytest", "-n", "auto", "--dist", "loadfile", "-k", "help"),
                   ("pytest", "-k", "help")]


def test_a_python_without_comfyuis_packages_is_an_error_that_names_the_remedy(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "empty", with_pip=False)
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "empty" / environment.VENV_PYTHON))
    with pytest.raises(SetupError, match="has no torch and no aiohttp and no PIL: set COMFYUI_PYT"):
        environment.ensure()


def test_wrong_host_path_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(SetupError, match="is no ComfyUI"):
        environment.ensure()


def interpreter_with(
    monkeypatch: pytest.MonkeyPatch, running: tuple[int, int], others: dict[tuple[int, int], str]
) -> Callable[[], Path]:
    fake = SimpleNamespace(version_info=(*running, 0), executable="/running", platform="linux")
    monkeypatch.setattr(environment, "sys", fake)
    answer = {version: Path(path) for version, path in others.items()}
    monkeypatch.setattr(environment, "python_on_path", answer.get)
    return environment.find_interpreter


def test_interpreter_is_311_then_this_one_then_another(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = interpreter_with(monkeypatch, (3, 12), {(3, 11): "/eleven"})
    assert choose() == Path("/eleven")
    choose = interpreter_with(monkeypatch, (3, 11), {(3, 12): "/twelve"})
    assert choose() == Path("/running")
    choose = interpreter_with(monkeypatch, (3, 13), {(3, 12): "/twelve"})
    assert choose() == Path("/running")
    choose = interpreter_with(monkeypatch, (3, 9), {(3, 12): "/twelve"})
    assert choose() == Path("/twelve")
    choose = interpreter_with(monkeypatch, (3, 9), {})
    with pytest.raises(SetupError, match=r"Python 3\.10 to 3\.13 is needed .* this is 3\.9"):
        choose()
