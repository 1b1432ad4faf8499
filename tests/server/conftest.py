"""One real ComfyUI for all tests of this folder."""

from collections.abc import Iterator

import pytest

from development.environment import ensure
from development.server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    environment = ensure()
    base = environment.base_directory("test")
    with Server(environment.python, environment.host, base) as running:
        yield running
