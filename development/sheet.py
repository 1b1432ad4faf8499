"""Labelled sheets of pictures as images, drawn as the nodes draw theirs."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from stylediffusion.drawing import sheets

from .editing import picture

Tile = sheets.Tile


def sheet(title: str, rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Rows of pictures [H, W, 3] under headings; every picture has a name and a remark below."""
    return picture(sheets.sheet(title, rows))
