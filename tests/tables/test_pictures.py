"""Pictures of users on their way to a server: any size, any depth, and damaged ones."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edits import pictures

SIDEWAYS = 6  # EXIF's orientation of a picture that is turned to the right to stand upright


def encoded(kind: str) -> bytes:
    """A picture that is turned by its EXIF, as a file, with what we tell of ours in a PNG."""
    noise = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = SIDEWAYS
    exif[0x010F] = "A camera's maker"
    told = pictures.png(Image.fromarray(noise), {"digest": "abc"})
    with Image.open(io.BytesIO(told)) as image:
        image.save(buffer, kind, exif=exif, pnginfo=None)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_damaged_picture_is_a_picture_or_an_os_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    whole, chance = encoded(kind), random.Random(7)
    assert pictures.opened(pictures.prepared(whole, 16)).size == (16, 16)
    ends = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            # most of the time in the front, where what a file says of itself stands
            data[chance.randrange(chance.choice((len(data), 200)))] = chance.randrange(256)
        try:
            ends.add(pictures.opened(pictures.prepared(bytes(data), 16)).mode)
        except OSError as error:
            assert str(error)
            ends.add("refused")
    assert ends == {"RGB", "refused"}


def test_what_a_damaged_picture_of_ours_tells_is_all_or_nothing(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    whole, chance = pictures.png(Image.new("RGB", (8, 8)), {"digest": "abc"}), random.Random(7)
    assert pictures.told(io.BytesIO(whole)) == {"digest": "abc"}
    for _ in range(400):
        data = bytearray(whole)
        data[chance.randrange(len(data))] = chance.randrange(256)
        assert pictures.told(io.BytesIO(data)) in ({"digest": "abc"}, None)


@pytest.mark.parametrize(("size", "told"), [(8, [1]), (100, {"digest": "abc"})])
def test_a_picture_that_is_not_ours_tells_nothing(
    size: int, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures.png(Image.new("RGB", (size, size)), told)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert pictures.told(io.BytesIO(data)) is None


def test_a_picture_over_pillows_limit_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match="384 pixels"):
        pictures.prepared(data, 16)


def test_a_grey_picture_of_16_bits_keeps_its_light(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "scan.png")
    with Image.open(tmp_path / "scan.png") as scan:
        assert scan.mode == "I;16"
    image = pictures.opened(pictures.prepared((tmp_path / "scan.png").read_bytes(), 8))
    wanted = (values / 257).round()  # 65535 = 257 * 255
    assert np.array_equal(np.asarray(image), np.stack([wanted] * 3, -1))


@pytest.mark.parametrize(("size", "side", "wanted"), [
    ((128, 128), 128, (128, 128)), ((1024, 512), 512, (728, 360)), ((3, 300), 16, (8, 160)),
])
def test_pictures_come_to_the_area_in_whole_cells_and_keep_their_shape(
    tmp_path: Path, size: tuple[int, int], side: int, wanted: tuple[int, int]
) -> None:
    Image.new("RGB", size, "blue").save(tmp_path / "photo.png")
    data = pictures.prepared((tmp_path / "photo.png").read_bytes(), side)
    assert pictures.opened(data).size == wanted
