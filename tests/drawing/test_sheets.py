"""Labelled sheets: what stands where, in which size and colour."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.drawing import sheets

LONG = "a photo of a very large ginger cat with a green hat on the wall of an old garden at night"
RED = torch.tensor([1.0, 0, 0])


def red(height: int, width: int) -> torch.Tensor:
    return RED.expand(height, width, 3)


def corners(sheet: torch.Tensor) -> list[list[int]]:
    """[top, left] of every red rectangle, in reading order."""
    where = (sheet - RED).abs().amax(-1) < 0.02
    found = where.clone()
    found[1:] &= ~where[:-1]
    found[:, 1:] &= ~where[:, :-1]
    return found.nonzero().tolist()


def red_boxes(sheet: torch.Tensor) -> list[tuple[int, int]]:
    """(height, width) of every red rectangle, in reading order."""
    where = (sheet - RED).abs().amax(-1) < 0.02
    return [(_run(where[y:, x]), _run(where[y, x:])) for y, x in corners(sheet)]


def _run(line: torch.Tensor) -> int:
    ends = (~line).nonzero()
    return int(ends[0]) if len(ends) else len(line)


@pytest.mark.parametrize(("height", "width", "shown"), [
    (128, 128, (256, 256)), (64, 96, (171, 256)), (300, 200, (300, 200)),
    (1024, 2048, (256, 512)), (2000, 20, (512, 5)), (3, 3000, (1, 512)),
])
def test_a_picture_keeps_its_shape_and_is_neither_tiny_nor_huge(
    height: int, width: int, shown: tuple[int, int]
) -> None:
    assert sheets.shown_size(height, width) == shown
    sheet = sheets.grid("", "", [("a", "", red(height, width)), ("b", "", red(height, width))])
    assert red_boxes(sheet) == [shown, shown]


@pytest.mark.parametrize("shape", [(128, 128), (480, 1280), (1024, 512), (64, 1024)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 23])
def test_every_tile_is_on_the_sheet_once_and_only_the_last_row_is_shorter(
    shape: tuple[int, int], count: int
) -> None:
    sheet = sheets.grid(LONG, "heading", [(LONG, "remark", red(*shape))] * count)
    assert red_boxes(sheet) == [sheets.shown_size(*shape)] * count
    tops = [top for top, _ in corners(sheet)]
    rows = [tops.count(top) for top in sorted(set(tops))]
    assert rows[:-1] == [rows[0]] * (len(rows) - 1) and 0 < rows[-1] <= rows[0]


def test_wide_pictures_stand_below_and_high_ones_beside_each_other() -> None:
    assert sheets.columns_of(4, 100, 800) == 1
    assert sheets.columns_of(4, 800, 100) == 4
    assert sheets.columns_of(8, 256, 256) == 4


def test_a_long_label_is_wrapped_at_words_and_loses_nothing() -> None:
    font = sheets.Layout(256, 256).font(13)
    lines = sheets.wrapped(LONG, font, 200, 9)
    assert len(lines) > 2 and " ".join(lines) == LONG
    assert all(font.getlength(line) <= 200 for line in lines)


def test_what_the_lines_do_not_hold_ends_in_an_ellipsis() -> None:
    font = sheets.Layout(256, 256).font(13)
    lines = sheets.wrapped(LONG, font, 200, 2)
    assert len(lines) == 2 and lines[1].endswith("...")
    assert LONG.startswith(" ".join(lines)[:-3])
    assert all(font.getlength(line) <= 200 for line in lines)


def test_a_word_wider_than_a_line_is_broken() -> None:
    font = sheets.Layout(256, 256).font(13)
    lines = sheets.wrapped("w" * 60, font, 100, 20)
    assert "".join(lines) == "w" * 60 and len(lines) > 3


class Measuring:
    """A font whose characters have widths of 1 to 7 pixels; keeps what it was asked to measure."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def getlength(self, text: str) -> float:
        self.asked.append(text)
        return float(sum(1 + ord(letter) % 7 for letter in text))


@pytest.mark.parametrize("words", [10, 1_000, 100_000])
def test_what_is_measured_does_not_grow_with_the_text(words: int) -> None:
    font = Measuring()
    lines = sheets.wrapped("very " * words, font, 300, 3)
    assert len(lines) <= 3 and all(font.getlength(line) <= 300 for line in lines)
    assert len(font.asked) < 100
    assert max(map(len, font.asked)) < 700


@pytest.mark.parametrize("width", [3, 20, 61, 300])
def test_lines_are_as_long_as_fits(width: int) -> None:
    """The same as by trying every length, longest first."""
    text = "a photo  of averyverylongword, and (one) more: WWWW iiii mmmmmmmmmmmmmmmmmmm l l l l"
    font, lines, rest = Measuring(), [], " ".join(text.split())
    while rest:
        fits = max(
            [n for n in range(1, len(rest) + 1) if font.getlength(rest[:n]) <= width], default=1)
        space = rest.rfind(" ", 0, fits + 1)
        fits = space if fits < len(rest) and space > 0 else fits
        lines.append(rest[:fits])
        rest = rest[fits:].lstrip()
    assert sheets.wrapped(text, font, width, 1_000) == lines
    last = max(n for n in range(len(lines[1]) + 1)
               if n == 0 or font.getlength(lines[1][:n] + "...") <= width)
    if len(lines) > 2:
        assert sheets.wrapped(text, font, width, 2) == [
            lines[0], lines[1][:last].rstrip() + "..."]


def test_accents_that_the_font_lacks_are_dropped_and_nothing_is_drawn_for_no_text() -> None:
    font = sheets.Layout(256, 256).font(13)
    assert sheets.wrapped("D\u00e9j\u00e0  vu\n\u201cn\u201d", font, 500, 3) == [
        "Deja vu \u201cn\u201d"]
    assert sheets.wrapped(" \n ", font, 100, 3) == []


def test_every_label_is_drawn_below_its_own_picture() -> None:
    def ink(name: str, remark: str) -> torch.Tensor:
        sheet = sheets.sheet("", [("", [("", "", red(256, 256)), (name, remark, red(256, 256)),
                                        ("", "", red(256, 256))])])
        below = sheet[12 + 256 :].amax(-1)
        return (below < 0.8).any(0).nonzero().flatten()

    for label in (("name", ""), ("", "remark"), (LONG, LONG)):
        columns = ink(*label)
        assert len(columns) > 10
        assert columns.min() >= 16 + 272 and columns.max() <= 16 + 272 + 256


def test_heat_at_a_pictures_size_has_its_maximum_at_one_where_the_strongest_cell_was() -> None:
    heat = torch.zeros(2, 4, 6)
    heat[0, 1, 4], heat[0, 3, 0] = 8.0, 2.0
    masks = sheets.spread(heat, 40, 120)
    assert masks.shape == (2, 40, 120)
    assert masks.min() == 0 and masks[0].max() == 1
    y, x = divmod(int(masks[0].argmax()), 120)
    assert (y // 10, x // 20) == (1, 4)
    assert 0.2 < masks[0, 35, 5] < 0.35, "a quarter as strong"
    assert not masks[1].any(), "no heat is no mask"


def test_shares_add_up_to_one_and_negative_heat_counts_as_none() -> None:
    heat = torch.stack([torch.full((2, 2), value) for value in (3.0, 1.0, -5.0)])
    assert sheets.shares(heat) == pytest.approx([0.75, 0.25, 0.0])
    assert sheets.shares(torch.zeros(2, 3, 3)) == [0.0, 0.0]


def test_more_heat_is_a_lighter_colour_from_end_to_end() -> None:
    colours = sheets.coloured(torch.linspace(0, 1, 200))
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722])
    lightness = torch.where(
        luminance > 0.008856, 116 * luminance ** (1 / 3) - 16, 903.3 * luminance)
    steps = lightness.diff()
    assert steps.min() > 0.15 and steps.max() < 0.7, "of 200 steps each about half a per cent"
    assert colours[0].tolist() == pytest.approx([0, 0, 4 / 255])
    assert colours[-1].tolist() == pytest.approx([252 / 255, 1, 164 / 255])


def test_an_overlay_shows_both_the_heat_and_the_picture() -> None:
    picture = torch.zeros(8, 8, 3)
    picture[:, 4:] = 1
    heat = torch.zeros(8, 8)
    heat[4:] = 1
    shown = sheets.overlaid(picture, heat)
    brightness = shown.mean(-1)
    assert shown.min() >= 0 and shown.max() <= 1
    assert (brightness[4:] > brightness[:4] + 0.1).all(), "heat, on black and on white"
    assert (brightness[:, 4:] > brightness[:, :4] + 0.1).all(), "the picture, hot and cold"
