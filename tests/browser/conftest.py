"""One real ComfyUI for all tests of this folder, a browser a file, a window a test."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from demo import drawing
from development import browser, examples
from development.environment import ensure
from development.server import Server
from tests.bases import base_directory
from tests.browser.words import NODE
from tests.graphs import INVERT
from training import trials

if TYPE_CHECKING:
    from tests.browser.window import Window

NODES_2 = "Comfy.VueNodes.Enabled"
MODES = {"classic": False, "nodes 2.0": True}


@pytest.fixture(scope="session")
def able() -> None:
    """Where there is no browser the tests are skipped; where CI is set they fail."""
    require_browser()


def require_browser() -> None:
    """Skip, or on CI fail, where there is no browser."""
    lacking = browser.missing()
    if lacking and os.environ.get("CI"):
        pytest.fail(f"The page cannot be tested: {lacking}")
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def server(able: None) -> Iterator[Server]:
    environment = ensure()
    base = base_directory(environment, "browser")
    browser.new_user(base)
    with Server(environment.python, environment.host, base) as running:
        yield running


@pytest.fixture(scope="session")
def photo(server: Server) -> None:
    """The host's own example picture, which a new base directory does not have."""
    written = io.BytesIO()
    drawing.draw(trials.DEMO.scene).save(written, "PNG")
    server.upload_image("example.png", written.getvalue())


@pytest.fixture(scope="module")
def chromium(able: None) -> Iterator[Any]:
    """Not for longer: while Playwright is there, asyncio.run fails in every test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield browser.launched(playwright)


@pytest.fixture(scope="module")
def workbench(chromium: Any, server: Server) -> Iterator["Window"]:
    """An open page that the tests of a file share."""
    with _window(chromium, server) as window:
        window.open()
        yield window


@pytest.fixture(scope="module", params=MODES)
def either(request: pytest.FixtureRequest, chromium: Any, server: Server) -> Iterator["Window"]:
    """The same, once for each way in which the page draws nodes."""
    with _window(chromium, server) as window:
        window.open()
        window.set(NODES_2, MODES[request.param])
        yield window
        window.set(NODES_2, False)


@pytest.fixture
def window(chromium: Any, server: Server) -> Iterator["Window"]:
    """A page that has not been opened yet."""
    with _window(chromium, server) as window:
        yield window


@contextmanager
def _window(chromium: Any, server: Server) -> Iterator["Window"]:
    from tests.browser.window import Window

    context = chromium.new_context(viewport={"width": 1600, "height": 950})
    yield Window(context.new_page(), server)
    context.close()


@pytest.fixture
def demo(either: "Window") -> "Window":
    either.load(examples.workflow("Demo"))
    return either


@pytest.fixture
def typed(demo: "Window") -> "Window":
    """The demo with a source prompt of its own, in place of the scene's caption."""
    demo.page.evaluate(f"""kind => {{ {NODE}
        node.disconnectInput(node.inputs.findIndex(i => i.name === 'prompt')) }}""", INVERT)
    demo.settle()
    return demo
