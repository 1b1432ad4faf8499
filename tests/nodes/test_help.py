"""Help pages: each shows its node, and quotes what the pack says word for word, to be found."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")
QUOTED = re.compile(r"\*([^*]+)\*(?=:| or \*| \(a)|(?<= or )\*([^*]+)\*")
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def _texts(source: str) -> Iterator[str]:
    """Every text of a Python file; what is filled in later is a line break here."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "\n"
                          for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SAID = [
    text.lower() for folder in ("nodes", "stylediffusion", "demo")
    for path in (ROOT / folder).rglob("*.py") for text in _texts(path.read_text(encoding="utf-8"))]


def _quotes(page: str) -> list[str]:
    """The messages of a page's last paragraph, each in italics and followed by what to do."""
    _, _, failing = " ".join(page.split()).partition("**If it fails.**")
    return [first or second for first, second in QUOTED.findall(failing)]


@every_page
def test_every_message_a_page_quotes_is_one_the_pack_gives(path: Path) -> None:
    quotes = _quotes(path.read_text(encoding="utf-8"))
    assert quotes or path.stem == "StyleDiffusionDemoScene", "what if it fails?"
    for quote in quotes:
        parts = [re.escape(part.strip()) for part in quote.lower().split("...")]
        pattern = re.compile(".*".join(parts), re.DOTALL)
        assert any(pattern.search(text) for text in SAID), quote


def test_quotes_are_read_from_the_paragraph_about_failing() -> None:
    page = "*Plot*: no.\n\n**If it fails.** *Is ... not*: use *Other*. *Second* or\n*third*: do."
    assert _quotes(page) == ["Is ... not", "Second", "third"]


@every_page
def test_a_page_shows_its_node_and_says_what_the_picture_shows(path: Path) -> None:
    ((said, link),) = PICTURE.findall(path.read_text(encoding="utf-8"))
    assert link == f"images/{path.stem}.jpg"
    assert (path.parent / link).is_file()
    assert len(said.split()) > 5
