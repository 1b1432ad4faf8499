"""How much room the page needs for a node, on the classic canvas and in Nodes 2.0."""

from __future__ import annotations

from typing import Any

from .widgets import input_specs, widget_of

SOCKET, WIDGET, LINE, TEXT_BOX = 20, 24, 28, 70
TITLE, FRAME = 30, 14
PREVIEW, UPLOADED = 240, 224
# Nodes 2.0: a line of text, a text box, and one line each for a badge, a button and an error.
LINE_TEXT, LINE_BOX, STRIP = 36, 84, 24
# Nodes that show a picture while they run, and keep it.
SHOWING = ("StyleDiffusionDDIMInvert", "StyleDiffusionLearnValueEmbedding",
           "StyleDiffusionGenerate", "StyleDiffusionSample", "SamplerCustomAdvanced")
# What the script adds below the targets: a frame, and a row for each.
PANEL, PANEL_ROW, CONTROLLER = 24, 16, "StyleDiffusionP2PlusController"


def height_of(schema: dict[str, Any], values: dict[str, Any], has_models: bool = False) -> int:
    """The least height without the title at which neither way of drawing lets a node grow.

    `values` are those of its widgets; one with models may show a line for those that are missing.
    """
    given = {"targets": "", **values}["targets"]
    panel = PANEL + PANEL_ROW * len(given.splitlines()) if schema["name"] == CONTROLLER else 0
    new = _new(schema, False) + (STRIP if has_models else 0)
    return max(_classic(schema), new) + panel


def reach_of(schema: dict[str, Any], height: int) -> int:
    """The height a node of this height has with its advanced inputs open and its picture shown."""
    panel = height - height_of(schema, {}) if schema["name"] == CONTROLLER else 0
    shown = PREVIEW if schema["name"] in SHOWING else 0
    return max(height, _new(schema, True) + panel) + shown


Widgets = list[tuple[dict[str, Any], Any, int]]


def _rows(schema: dict[str, Any]) -> tuple[int, Widgets]:
    """(rows of sockets; options, type and the page's own controls of each widget)."""
    specs = [(options, kind, widget_of(name, kind, options))
             for name, kind, options in input_specs(schema)]
    widgets = [(options, kind, found.controls) for options, kind, found in specs if found]
    return max(len(specs) - len(widgets), len(schema["output"])), widgets


def _uploads(widgets: Widgets) -> int:
    """How many widgets show the file that was chosen."""
    return sum(bool(options.get("image_upload")) for options, _, _ in widgets)


def _classic(schema: dict[str, Any]) -> int:
    """All inputs are shown, the advanced ones too, and an upload has a button."""
    rows, widgets = _rows(schema)
    return SOCKET * rows + FRAME + UPLOADED * _uploads(widgets) + sum(
        TEXT_BOX if options.get("multiline")
        else WIDGET * (1 + controls + bool(options.get("image_upload")))
        for options, _, controls in widgets)


def _new(schema: dict[str, Any], is_open: bool) -> int:
    rows, widgets = _rows(schema)
    advanced = [bool(options.get("advanced")) for options, _, _ in widgets]
    strips = schema["name"].startswith("StyleDiffusion") + any(advanced)
    return SOCKET * rows + FRAME + STRIP * strips + PREVIEW * _uploads(widgets) + sum(
        LINE_BOX if options.get("multiline") else LINE_TEXT if kind == "STRING" else LINE
        for (options, kind, _), hidden in zip(widgets, advanced, strict=True)
        if is_open or not hidden)
