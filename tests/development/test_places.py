"""Where things lie: the cache, base directories, the link to the pack."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from development import environment, places


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
def test_cache_root(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STYLEDIFFUSION_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(places, "sys", SimpleNamespace(platform=platform))
    assert places.cache_root() == Path(expected).expanduser()


def test_base_directories_are_the_clones_and_the_hosts_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    base = places.prepare_base(tmp_path, "demo", one)
    assert (base / "user/default/workflows").is_dir()
    assert (base / "custom_nodes" / places.PACK_NAME).resolve() == one
    assert places.prepare_base(tmp_path, "demo", other) != base
    assert places.prepare_base(tmp_path, "test", one) != base
    of_hosts = {environment.Environment(Path(sys.executable), host, tmp_path).base_directory("demo")
                for host in (one, other)}
    assert len(of_hosts) == 2


@pytest.mark.parametrize("before", ["nothing", "elsewhere", "dangling"])
def test_link_is_refreshed(tmp_path: Path, before: str) -> None:
    clone, link = tmp_path / "clone", tmp_path / "link"
    clone.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.txt").touch()
    if before != "nothing":
        link.symlink_to(tmp_path / before)
    places.link_pack(link, clone)
    places.link_pack(link, clone)
    assert link.resolve() == clone
    assert (tmp_path / "elsewhere" / "kept.txt").exists()


def test_a_folder_with_files_is_never_taken_for_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "kept.txt").touch()
    with pytest.raises(OSError):
        places.link_pack(tmp_path / "link", tmp_path)
    assert (tmp_path / "link" / "kept.txt").exists()
