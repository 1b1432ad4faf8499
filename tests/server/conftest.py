"""One real ComfyUI for all tests of this folder."""

from collections.abc import Iterator

import pytest

from development.environment import ensure
from development.server import Server
from tests import logs
from tests.bases import base_directory


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    environment = ensure()
    base = base_directory(environment, "test")
    with Server(environment.python, environment.host, base) as running:
        yield running


@pytest.fixture
def silent(server: Server) -> Iterator[None]:
    """Fails the test if the server warns or reports an error meanwhile."""
    before = len(logs.read(server))
    yield
    assert logs.complaints(logs.read(server)[before:]) == []
