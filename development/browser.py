"""The Chromium or Chrome of this machine, driven by Playwright, with ComfyUI's page in it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .environment import ensure
from .server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
READY = """() => window.app?.graph && window.LiteGraph
    ?.registered_node_types['StyleDiffusionSample']"""
READY_MS = 90_000


def missing() -> str | None:
    """What a page needs and this machine or this Python lacks, in one line; None if nothing."""
    if _browser() is None:
        return f"no browser on the PATH ({', '.join(BROWSERS)}): install chromium"
    if importlib.util.find_spec("playwright") is None:
        return "this Python has no Playwright: pip install playwright"
    return None


def launched(playwright: Any) -> Any:
    """A headless browser of this machine, for sync_playwright's object."""
    return playwright.chromium.launch(executable_path=_browser(), args=list(ARGUMENTS))


def opened(page: Any, url: str) -> None:
    """Go to ComfyUI's page and wait until it knows the pack's nodes."""
    page.goto(url)
    page.wait_for_function(READY, timeout=READY_MS)


@contextmanager
def page_of(purpose: str, settings: dict[str, Any] | None = None, **options: Any
            ) -> Iterator[tuple[Any, Server]]:
    """(the page, open, of a new user; its server) for a command; it ends where there is no browser.

    `settings` are the page's own, by their ids, `options` those of Playwright's page.
    """
    if lacking := missing():
        sys.exit(f"This needs a browser and Playwright: {lacking}")
    from playwright.sync_api import sync_playwright

    found = ensure()
    base = found.base_directory(purpose)
    new_user(base, settings)
    with Server(found.python, found.host, base) as server, sync_playwright() as playwright:
        page = launched(playwright).new_page(**options)
        opened(page, server.url)
        yield page, server
        page.close()


def new_user(base: Path, settings: dict[str, Any] | None = None) -> None:
    """Make the base directory of a server that of a person who has seen the page's tutorial."""
    for folder in (base / "user", base / "output"):
        shutil.rmtree(folder)
        folder.mkdir()
    (base / "user" / "default" / "workflows").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(
        json.dumps({"Comfy.TutorialCompleted": True, **(settings or {})}), encoding="utf-8")


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)
