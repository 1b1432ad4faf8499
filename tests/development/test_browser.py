"""Where there is no browser: the page's tests are skipped, and on CI they fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from development import browser
from development.places import ROOT


@pytest.mark.parametrize("ci, outcome", [("", "1 skipped"), ("true", "1 error")])
def test_the_pages_tests_are_skipped_without_a_browser_but_not_on_ci(
    tmp_path: Path, ci: str, outcome: str
) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/browser/test_page.py", "-k", "page_opens", "-q",
         "-rsE", "-p", "no:cacheprovider"],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path), "CI": ci}, capture_output=True,
        text=True)
    assert outcome in asked.stdout.splitlines()[-1]
    (line,) = (line for line in asked.stdout.splitlines() if line.startswith(("SKIPPED", "ERROR")))
    assert "no browser on the PATH" in asked.stdout and ("SKIPPED" in line) == (not ci)


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lacking = browser.missing()
    assert lacking is not None and "chromium" in lacking and "\n" not in lacking
    program = tmp_path / "chromium"
    program.touch(0o755)
    assert browser.missing() is None
