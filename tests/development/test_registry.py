"""What the registry gets: the fields of pyproject.toml, and an archive with all the pack needs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from development.environment import HOST_VERSION

ROOT = Path(__file__).resolve().parents[2]
SERVED = ("web/", "workflows/", "locales/", "subgraphs/")
PLAIN = {"LICENSE", "README.md", "pyproject.toml", "requirements.txt"}
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {"NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal", "Huawei Ascend"}


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    """The whole of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found


def listed(*options: str) -> set[str]:
    """Files of this clone that git has or would take, narrowed by more options."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a clone and git")
    command = ["git", "ls-files", "-z", "--cached", "--others", *options]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in said.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def shipped() -> set[str]:
    """The archive's files: those of git that no pattern of .comfyignore names."""
    return listed("--exclude-standard") - listed("--ignored", "--exclude-from=.comfyignore")


def imported(module: Path) -> Iterator[Path]:
    """The pack's files that one of them imports, at once or later."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            origin = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for path in (origin, *(origin / name.name for name in node.names)):
                yield from filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py"))


def needed_modules() -> set[Path]:
    """All that can be reached from what the host imports."""
    found, fresh = set[Path](), {ROOT / "__init__.py"}
    while fresh:
        found |= fresh
        fresh = {path for module in fresh for path in imported(module)} - found
    return found


def needed_data(modules: set[Path]) -> set[Path]:
    """Files that lie beside a module and are named in it."""
    return {
        module.parent / node.value
        for module in modules for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and re.fullmatch(r"[\w.-]+\.\w+", node.value) and (module.parent / node.value).is_file()
    }


def test_the_project_fields_have_the_registrys_shapes(fields: dict[str, Any]) -> None:
    project = fields["project"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,99}", project["name"])
    assert "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and project["description"]
    assert (ROOT / project["license"]["file"]).is_file() and (ROOT / project["readme"]).is_file()
    assert project["requires-python"] == ">=3.10"
    kinds = [line.split(" :: ", 1) for line in project["classifiers"]]
    assert all(rest.startswith(SYSTEMS) for kind, rest in kinds if kind == "Operating System")
    assert all(rest.split(" :: ")[-1] in ACCELERATORS for kind, rest in kinds
               if kind == "Environment")
    assert all(url.startswith("https://") for url in project["urls"].values())


def test_the_hosts_keys_agree_with_the_project(fields: dict[str, Any]) -> None:
    comfy, urls = fields["tool"]["comfy"], fields["project"]["urls"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", comfy["PublisherId"]) and comfy["DisplayName"]
    assert f"/{comfy['PublisherId']}/" in urls["Repository"]
    assert comfy["requires-comfyui"] == f">={HOST_VERSION}"
    assert "web" not in comfy, "WEB_DIRECTORY registers the pages already"
    raw = urls["Repository"].replace("//github.com", "//raw.githubusercontent.com") + "/main/"
    for key, fits in (("Icon", lambda w, h: w == h <= 400),
                      ("Banner", lambda w, h: w * 9 == h * 21)):
        assert comfy[key].startswith(raw)
        header = (ROOT / comfy[key].removeprefix(raw)).read_bytes()[:24]
        assert fits(*struct.unpack(">II", header[16:24])), key


def test_the_version_is_the_changelogs_newest(fields: dict[str, Any]) -> None:
    entries = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[0] == fields["project"]["version"]


def test_nothing_is_installed_that_the_host_has(fields: dict[str, Any]) -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    asked = [line for line in lines if line.strip() and not line.startswith("#")]
    assert asked == fields["project"]["dependencies"]
    assert not any(line.startswith("torch") for line in asked)


def test_the_archive_has_all_that_is_needed_and_no_other_code(shipped: set[str]) -> None:
    modules = needed_modules()
    code, data = (
        {path.relative_to(ROOT).as_posix() for path in paths}
        for paths in (modules, needed_data(modules)))
    assert "demo/weights.safetensors" in data
    served = {name for name in listed("--exclude-standard") if name.startswith(SERVED)}
    assert "web/docs/StyleDiffusionSample.md" in served
    assert code | data | served | PLAIN <= shipped
    assert {name for name in shipped if name.endswith(".py")} == code


def starting(base: Path) -> str:
    """What the host says when it starts with a base directory of its own and stops again."""
    (base / "user" / "default").mkdir(parents=True)
    command = [
        sys.executable, "main.py", "--quick-test-for-ci", "--cpu", "--disable-api-nodes",
        "--database-url", "sqlite:///:memory:", "--base-directory", str(base)]
    done = subprocess.run(command, cwd=os.environ["COMFYUI_PATH"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_unpacked_archive_starts_without_a_warning(shipped: set[str], tmp_path: Path) -> None:
    for name in shipped:
        target = tmp_path / "with" / "custom_nodes" / "stylediffusion" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    said = starting(tmp_path / "with").splitlines()
    assert any(re.search(r"seconds: .*custom_nodes.stylediffusion$", line) for line in said)
    if complaints := {line for line in said if re.search(r"WARN|ERROR|Error|FAILED", line)}:
        assert complaints <= set(starting(tmp_path / "without").splitlines())
