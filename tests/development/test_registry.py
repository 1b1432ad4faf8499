"""What the registry and GitHub get: fields, an archive of what is needed, workflows, forms."""

from __future__ import annotations

import ast
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from development.environment import OLDEST_HOST
from tests import archive
from tests.archive import ROOT

GITHUB = ROOT / ".github"
DEVELOPERS = "workflows/api/"
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


@pytest.fixture(scope="module")
def shipped() -> set[str]:
    return archive.shipped()


def imported(module: Path) -> Iterator[Path]:
    """The pack's files that one of them imports, at once or later."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            origin = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for path in (origin, *(origin / name.name for name in node.names)):
                yield from filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py"))
                for package in takewhile(lambda folder: folder != ROOT, path.parents):
                    yield from filter(Path.is_file, [package / "__init__.py"])


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
    assert comfy["requires-comfyui"] == f">={OLDEST_HOST}"
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
    served = {name for name in archive.listed("--exclude-standard")
              if name.startswith(SERVED) and not name.startswith(DEVELOPERS)}
    assert {"web/docs/StyleDiffusionSample.md", "subgraphs/Prompt to Prompt Image "
            "Edit (StyleDiffusion).json"} <= served
    assert code | data | served | PLAIN <= shipped
    assert not any(name.startswith(DEVELOPERS) for name in shipped)
    assert {name for name in shipped if name.endswith(".py")} == code


def parsed(path: Path) -> dict[str, Any]:
    """A YAML file; `on`, which YAML reads as a truth value, under its own name."""
    found: dict[Any, Any] = pytest.importorskip("yaml").safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def test_only_a_tested_new_version_is_published() -> None:
    publish = parsed(GITHUB / "workflows" / "publish.yml")
    assert publish["on"] == {"push": {"branches": ["main"], "paths": ["pyproject.toml"]}}
    jobs = publish["jobs"]
    assert "fork" in jobs["version"]["if"]
    assert jobs["test"]["needs"] == "version" and jobs["publish"]["needs"] == "test"
    assert jobs["test"]["if"] == "needs.version.outputs.changed == 'true'"
    tests = ROOT / jobs["test"]["uses"]
    assert "workflow_call" in parsed(tests)["on"]
    with_secrets = [name for name, job in jobs.items() if "secrets." in str(job)]
    assert with_secrets == ["publish"]


def test_the_tests_run_on_every_push_with_no_more_rights_than_reading() -> None:
    tests = parsed(GITHUB / "workflows" / "test.yml")
    assert {"push", "pull_request"} <= tests["on"].keys() and not tests["on"]["push"]
    commands = [step["run"] for step in tests["jobs"]["test"]["steps"] if "run" in step]
    assert commands == ["python3 dev.py lint", "python3 dev.py test"]
    for path in (GITHUB / "workflows").glob("*.yml"):
        assert parsed(path)["permissions"] == {"contents": "read"}, path.name


@pytest.mark.parametrize(("line", "changed"), [
    ('version = "0.1.0"', False), ('version = "0.2.0"', True),
    ('version = "0.1.0"\ndescription = "new"', False), ('name = "new"\nversion = "1.0.0"', True),
])
@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("git")), reason="needs bash, git")
def test_the_publishing_step_sees_a_new_version(tmp_path: Path, line: str, changed: bool) -> None:
    (step,) = (step for step in parsed(GITHUB / "workflows" / "publish.yml")["jobs"]["version"][
        "steps"] if "run" in step)

    def commit(written: str) -> None:
        (tmp_path / "pyproject.toml").write_text(f"[project]\n{written}\n")
        subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
                       cwd=tmp_path, check=True)

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit('version = "0.1.0"')
    (tmp_path / "another_file").touch()
    commit(line)
    said = tmp_path / "output"
    said.touch()
    variables = {**os.environ, "BEFORE": "HEAD~1", "GITHUB_OUTPUT": str(said)}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=variables, check=True)
    assert said.read_text() == ("changed=true\n" if changed else "")


@pytest.mark.parametrize("name", ["bug_report.yml", "feature_request.yml"])
def test_an_issue_form_asks_questions_that_the_page_can_show(name: str) -> None:
    form = parsed(GITHUB / "ISSUE_TEMPLATE" / name)
    assert form["name"] and form["description"]
    identifiers = [part["id"] for part in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    for part in form["body"]:
        assert part["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert part["attributes"]["label"]
        assert (part["type"] == "dropdown") == bool(part["attributes"].get("options"))
    assert any(part["validations"]["required"] for part in form["body"] if "validations" in part)
