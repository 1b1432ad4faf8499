"""Where there is no browser: the page's tests are skipped, and on CI they fail."""

from pathlib import Path

import pytest

from development import browser
from tests.browser.conftest import require_browser


@pytest.mark.parametrize("ci, outcome", [
    ("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_the_pages_tests_are_skipped_without_a_browser_but_not_on_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no browser on the PATH"):
        require_browser()


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lacking = browser.missing()
    assert lacking is not None and "chromium" in lacking and "\n" not in lacking
    program = tmp_path / "chromium"
    program.touch(0o755)
    assert browser.missing() is None
