"""A ComfyUI that is already there, and the Python that goes with it."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest

import dev
from development import environment
from development.environment import HOST_VERSION, SetupError


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


def test_another_host_is_asked_for_by_its_version(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SetupError, match=r"COMFYUI_PATH names a ComfyUI .* unset it for 0\.24\.0"):
        dev.dispatch("test", ["-k", "help", "--host", "0.24.0"])
    asked: list[str] = []
    found = environment.ensure()
    monkeypatch.setattr(environment.Environment, "run", lambda self, *command: 0)
    monkeypatch.setattr(environment, "ensure",
                        lambda report, version: asked.append(version) or found)
    dev.dispatch("test", ["-k", "help"])
    dev.dispatch("test", ["-k", "help", "--host", "0.24.0"])
    assert asked == [HOST_VERSION, "0.24.0"]
