"""Cards of the templates: every example can be run on the demo model, and pictures fit together."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from development import examples
from gallery import cards


class Uploads:
    """Of a server only what takes pictures."""

    def upload_image(self, name: str, data: bytes) -> str:
        assert data.startswith(b"\x89PNG")
        return name


@pytest.mark.parametrize("name", cards.PHOTOS)
def test_an_example_that_wants_a_download_runs_without_one(name: str) -> None:
    server: Any = Uploads()
    prompt = cards.on_demo_model(examples.prompt(name), cards.PHOTOS[name], server)
    kinds = [node["class_type"] for node in prompt.values()]
    assert kinds.count(cards.DEMO_MODEL) == 1
    assert not {*cards.DOWNLOADED, *cards.LEFT_OUT} & set(kinds)
    for node in prompt.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in prompt
            assert not str(value).endswith((".safetensors", ".ckpt"))


def test_every_example_that_wants_a_download_has_a_scene_of_its_own() -> None:
    assert set(cards.PHOTOS) == set(filter(examples.models, examples.EXAMPLES))
    assert len({trial.scene for trial in cards.PHOTOS.values()}) == len(cards.PHOTOS)


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_an_example_shows_what_it_makes_and_the_picture_before(name: str) -> None:
    prompt = examples.prompt(name)
    if name in cards.PHOTOS:
        server: Any = Uploads()
        prompt = cards.on_demo_model(prompt, cards.PHOTOS[name], server)
    kinds = {node["class_type"] for node in prompt.values()}
    shown = cards.with_results(prompt, kinds)
    assert shown["after"]["class_type"] == "PreviewImage"
    assert ("before" in shown) == ("VAEEncode" in kinds)
    for added in shown.keys() - prompt.keys():
        for value in shown[added]["inputs"].values():
            assert value[0] in shown


def test_the_middle_of_a_picture_is_fitted() -> None:
    wide = Image.new("RGB", (40, 10), "red")
    wide.paste("blue", (15, 0, 25, 10))
    assert cards.fitted(wide, 20).getcolors() == [(400, (0, 0, 255))]


@pytest.mark.parametrize(("count", "seen"), [(1, "RB"), (2, "RBG"), (3, "RBGY")])
def test_a_card_shows_the_picture_before_and_all_after(count: int, seen: str) -> None:
    colours = {"R": (255, 0, 0), "B": (0, 0, 255), "G": (0, 255, 0), "Y": (255, 255, 0)}
    before, *after = (Image.new("RGB", (30, 20), colours[name]) for name in "RBGY"[: count + 1])
    card = cards.card(before, after)
    assert card.size == (512, 512)
    found = {colour: number for number, colour in card.getcolors() or []}
    assert found.keys() == {cards.PAPER, *(colours[name] for name in seen)}
    assert min(found[colours[name]] for name in seen) > 512 * 512 / 5
