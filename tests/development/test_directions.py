"""Imports point one way: each room knows the rooms that the house's drawing says, and no other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each room with those that it may import, which all stand above it: there is no circle.
ROOMS = {
    "stylediffusion/method": "",
    "stylediffusion/prompts": "stylediffusion/method",
    "stylediffusion/storage": "stylediffusion/method",
    "stylediffusion/drawing": "",
    "stylediffusion/measures": "",
    "stylediffusion/host": "stylediffusion/method stylediffusion/prompts stylediffusion/storage "
                           "stylediffusion/drawing stylediffusion/measures",
    "demo": "",
    "nodes": "stylediffusion/host stylediffusion/method stylediffusion/prompts "
             "stylediffusion/drawing stylediffusion/measures demo",
    "development": "",
    "reference": "",
    "training": "stylediffusion/drawing stylediffusion/measures demo development",
    "gallery": "stylediffusion/drawing demo development training",
    "edits": "stylediffusion/measures development",
    "bench": "stylediffusion/host stylediffusion/method stylediffusion/prompts "
             "stylediffusion/storage stylediffusion/measures demo development reference training "
             "edits",
}
WITHOUT_HOST = ("method", "prompts", "storage", "drawing", "measures")
HOSTS = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths",
         "latent_preview", "node_helpers", "server"}


def imported(path: Path) -> Iterator[str]:
    """What a file imports, at once or later, as a place seen from the root: "demo/scenes".

    By its bare name `nodes` is a module of the host: the pack's own is imported from beside.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = (name.name.replace(".", "/") for name in node.names)
            yield from (name for name in names if name != "nodes")
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module != "nodes"):
            folder = path.parents[node.level - 1].relative_to(ROOT) if node.level else Path()
            origin = folder.joinpath(*(node.module or "").split("."))
            yield from ((origin / name.name).as_posix() for name in node.names)


def known(room: str) -> set[str]:
    """All that the files of a room import."""
    return {place for path in (ROOT / room).rglob("*.py") for place in imported(path)}


def within(place: str, room: str) -> bool:
    return place == room or place.startswith(room + "/")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_what_the_house_says_and_nothing_above_it(room: str) -> None:
    places = known(room)
    found = {other for other in {*ROOMS, "tests", "dev"} - {room}
             if any(within(place, other) for place in places)}
    assert found == set(ROOMS[room].split())
    assert found <= set(list(ROOMS)[: list(ROOMS).index(room)])


def test_the_rooms_below_import_none_of_the_host() -> None:
    for room in WITHOUT_HOST:
        found = {place.split("/")[0] for place in known(f"stylediffusion/{room}")}
        assert not found & HOSTS, room


@pytest.mark.parametrize("room", ["training", "bench"])
def test_what_finds_comfyui_is_imported_before_anything_that_needs_it(room: str) -> None:
    scripts = 0
    for path in (ROOT / room).glob("*.py"):
        before: list[str] = []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (
                node.module == "training.host_path" or node.names[0].name == "host_path"
            ):
                scripts += 1
                assert {name.split(".")[0] for name in before} <= sys.stdlib_module_names, path.name
            if isinstance(node, ast.Import):
                before += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                before.append("." * node.level + (node.module or ""))
    assert scripts > 2


def test_every_folder_with_code_is_a_room_of_the_map_and_of_the_drawing() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix()
               for depth in ("*", "stylediffusion/*") for path in ROOT.glob(f"{depth}/__init__.py")}
    assert folders - {"stylediffusion"} == {*ROOMS, "tests"}
    for page in ("README.md", "docs/architecture.md"):
        said = (ROOT / page).read_text(encoding="utf-8")
        assert all(f"{room.split('/')[-1]}/" in said for room in ROOMS), page
