"""What the pack's own scripts say on the page, in eight languages, and the presets of the taus."""

import json
import re

import pytest

from development import locales
from development.places import ROOT

SCRIPTS = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "web" / "js").glob("*.js")))
FILLED = re.compile(r"\{\w+\}")
KINDS = {"another colour": "colour", "another object": "object", "another place": "place",
         "another style": "style"}


def texts(language: str) -> dict[str, str]:
    path = locales.FOLDER / language / "main.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["stylediffusion"]
    return found


ENGLISH = texts("en")
TRANSLATIONS = sorted({path.name for path in locales.FOLDER.iterdir()} - {"en"})


def test_the_scripts_say_every_english_text_and_no_other() -> None:
    quoted = set(re.findall(r'"([a-z_]+)"', SCRIPTS))
    made = {f"pick_{name}" for name in ("blend_words", "emphasis")}
    made |= {f"preset_{name}" for name in re.findall(r"^  (\w+): \[[\d., ]+\],", SCRIPTS, re.M)}
    assert set(ENGLISH) - made <= quoted
    assert made <= set(ENGLISH)
    assert set(re.findall(r'say\("(\w+)"', SCRIPTS)) <= set(ENGLISH)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_language_says_the_same_things_in_its_own_words(language: str) -> None:
    found = texts(language)
    assert list(found) == list(ENGLISH)
    for key, text in found.items():
        assert sorted(FILLED.findall(text)) == sorted(FILLED.findall(ENGLISH[key])), key
        assert text.strip() == text != ENGLISH[key] or key in ("shift_click",), key


NODE_CLASSES = re.compile(r"^class (\w+)\(io\.ComfyNode\):(.+?)(?=^class |\Z)", re.M | re.S)


def test_a_node_that_says_something_after_a_run_shows_it() -> None:
    (listed,) = re.findall(r"const SAYING = \[([^]]+)\]", SCRIPTS)
    saying = {name for path in (ROOT / "nodes").glob("*.py")
              for name, body in NODE_CLASSES.findall(path.read_text(encoding="utf-8"))
              if "PreviewText(" in body}
    assert set(re.findall(r"\w+", listed)) == saying


def test_the_presets_of_the_taus_are_those_of_the_measured_table() -> None:
    rows = re.findall(r"^\| (another \w+) \|([\d. |]+)\|", (ROOT / "README.md").read_text("utf-8"),
                      re.M)
    table = {KINDS[kind]: [float(tau) for tau in taus.split("|")[:3]] for kind, taus in rows}
    presets = {name: [float(tau) for tau in taus.split(",")]
               for name, taus in re.findall(r"^  (\w+): \[([\d., ]+)\],", SCRIPTS, re.M)}
    assert presets.pop("defaults") == [0.5, 0.6, 0.6, 0.0]
    assert presets == {kind: [*taus, 0.0] for kind, taus in table.items()}
