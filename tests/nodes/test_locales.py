"""The texts of the page in eight languages: complete, up to date, and read as they are written."""

import asyncio
import re
from typing import Any

import pytest
from stylediffusion_pack import comfy_entrypoint

from development import locales

LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "ru", "zh")

# The page shows tooltips as they stand and compiles all other texts: signs that mean something to
# the compiler would show in the one or break the other, and can be escaped for neither alone.
COMPILED = re.compile(r"[{}@|<>]")
KEPT = re.compile(r"tau_[vcsu]|%\w+%|\w+\.safetensors|models/clip_vision|SamplerCustomAdvanced")


async def _english() -> dict[str, Any]:
    nodes = await (await comfy_entrypoint()).get_node_list()
    return locales.english({node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in nodes})


ENGLISH = asyncio.run(_english())
SOURCE = dict(locales.leaves(ENGLISH))
every_language = pytest.mark.parametrize("language", LANGUAGES)
every_translation = pytest.mark.parametrize(
    "language", [language for language in LANGUAGES if language != "en"])


def _texts(language: str) -> dict[locales.Leaf, Any]:
    return dict(locales.leaves(locales.read(language)))


def test_the_folder_holds_these_languages() -> None:
    assert {path.name for path in locales.FOLDER.iterdir()} == set(LANGUAGES)


def test_english_is_what_the_nodes_say() -> None:
    """Otherwise `python3 dev.py locales` writes it anew, and the translations want a look."""
    written = locales.path_of("en").read_text(encoding="utf-8")
    assert written == locales.as_text(ENGLISH)


@every_language
def test_a_language_has_every_text_and_no_other(language: str) -> None:
    assert list(_texts(language)) == list(SOURCE)


@every_language
def test_every_text_is_said_and_means_nothing_to_the_pages_compiler(language: str) -> None:
    for key, text in _texts(language).items():
        assert isinstance(text, str) and text.strip() == text and text, key
        assert not COMPILED.search(text), key


@every_translation
def test_every_sentence_is_translated(language: str) -> None:
    for key, text in _texts(language).items():
        if key[-1] in ("tooltip", "description"):
            assert text != SOURCE[key], key


@every_translation
def test_symbols_and_file_names_are_those_of_the_english_text(language: str) -> None:
    for key, text in _texts(language).items():
        assert set(KEPT.findall(SOURCE[key])) <= set(KEPT.findall(text)), key


def test_the_english_of_an_input_and_an_output_by_hand() -> None:
    definition = {
        "display_name": "Shown", "description": "What it does.",
        "input": {"required": {"first": ["INT", {"tooltip": "One."}]},
                  "optional": {"second": ["INT", {"display_name": "2nd", "tooltip": "Two."}]}},
        "output_name": ["third"], "output_tooltips": ["Three."],
    }
    assert locales.english({"StyleDiffusionNew": definition, "Other": {}}) == {
        "StyleDiffusionNew": {
            "display_name": "Shown", "description": "What it does.",
            "inputs": {"first": {"name": "first", "tooltip": "One."},
                       "second": {"name": "2nd", "tooltip": "Two."}},
            "outputs": {"0": {"name": "third", "tooltip": "Three."}},
        }
    }
