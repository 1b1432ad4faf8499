"""The registry's archive, unpacked by itself, is all that the real ComfyUI needs."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from development import examples
from development.environment import ensure
from development.places import BASE_FOLDERS, PACK_NAME
from development.server import Server
from tests import archive, logs
from tests.graphs import short
from training import editing


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory with the archive as its one custom node."""
    base = tmp_path_factory.mktemp("base")
    for folder in BASE_FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    archive.unpack(base / "custom_nodes" / PACK_NAME)
    return base


@pytest.fixture(scope="module")
def served(unpacked: Path) -> Iterator[Server]:
    environment = ensure()
    with Server(environment.python, environment.host, unpacked) as running:
        yield running


@pytest.fixture(scope="module")
def pack(unpacked: Path) -> Path:
    return unpacked / "custom_nodes" / PACK_NAME


def test_every_node_is_there_and_has_its_help_page(served: Server, pack: Path) -> None:
    listed = {name for name, node in served.object_info().items()
              if node["python_module"] == f"custom_nodes.{PACK_NAME}"}
    pages = {path.stem: path.read_bytes() for path in (pack / "web" / "docs").glob("*.md")}
    assert listed == pages.keys() and len(listed) >= 14
    for name, page in pages.items():
        assert served.get(f"/extensions/{PACK_NAME}/docs/{name}.md") == page


def test_every_template_has_its_thumbnail(served: Server, pack: Path) -> None:
    templates = served.get_json("/workflow_templates")[PACK_NAME]
    assert set(templates) == {path.stem for path in (pack / "workflows").glob("*.json")}
    for name in templates:
        address = f"/api/workflow_templates/{PACK_NAME}/{quote(name)}"
        assert json.loads(served.get(f"{address}.json"))["nodes"]
        assert served.get(f"{address}.jpg").startswith(b"\xff\xd8\xff")


def test_every_language_is_served(served: Server, pack: Path) -> None:
    texts = served.get_json("/i18n")
    for folder in (pack / "locales").iterdir():
        written = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert texts[folder.name]["nodeDefs"] == written and written


def test_every_subgraph_is_offered(served: Server, pack: Path) -> None:
    offered = {entry["name"]: name for name, entry in served.get_json("/global_subgraphs").items()
               if entry["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"}
    files = {path.stem: path for path in (pack / "subgraphs").glob("*.json")}
    assert offered.keys() == files.keys()
    for name, file in files.items():
        data = served.get_json(f"/global_subgraphs/{offered[name]}")["data"]
        assert data == file.read_text(encoding="utf-8")


def test_the_demo_graph_runs_and_nobody_complains(served: Server) -> None:
    prompt = short(examples.prompt("Demo"))
    (files,) = served.images(served.wait(served.queue(prompt))).values()
    pictures = editing.decoded(files)
    assert len(pictures) == 3 and all(picture.std() > 0.02 for picture in pictures)
    assert logs.complaints(logs.read(served)) == []
