"""Which inputs of a node are widgets on the page, and what each keeps in `widgets_values`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WIDGET_TYPES = {
    *("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"),
    *("COLOR", "COLORS", "BOUNDING_BOX", "BOUNDING_BOXES", "CURVE", "RANGE"),
    *("CHART", "GALLERIA", "IMAGECOMPARE", "MARKDOWN", "PAINTER", "TEXTAREA"),
}
NESTING_TYPE = "COMFY_DYNAMICCOMBO_V3"
# Entries that widgets of the page's own may leave after all others, by input option and by node.
ENTRIES_OF_OPTIONS = {
    "image_upload": 1,
    "animated_image_upload": 1,
    "video_upload": 1,
    "audio_upload": 2,
}
ENTRIES_OF_NODES = {"PreviewAny": 3}
SEED_NAMES = ("seed", "noise_seed")


@dataclass(frozen=True)
class Widget:
    """A widget by its input's name; `controls` entries of the page's own follow its value."""

    name: str
    controls: int = 0


def input_specs(schema: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The (name, type, options) of each input in the page's order: required, then optional."""
    for group in ("required", "optional"):
        specs = schema["input"].get(group) or {}
        order = (schema.get("input_order") or {}).get(group) or list(specs)
        for name in order:
            spec = specs[name]
            yield name, spec[0], (spec[1] if len(spec) > 1 else {})


def widget_of(name: str, kind: Any, options: dict[str, Any]) -> Widget | None:
    """The widget an input is shown as, None for a socket."""
    is_combo = isinstance(kind, list) or kind == "COMBO"
    shown_as = options.get("widgetType") or ("COMBO" if is_combo else kind)
    if options.get("forceInput") or shown_as not in WIDGET_TYPES:
        return None
    default = kind == "INT" and name in SEED_NAMES
    if not options.get("control_after_generate", default):
        return Widget(name)
    # A combo's control comes with a field that filters the list.
    return Widget(name, controls=2 if is_combo else 1)


def widgets_of(schema: dict[str, Any]) -> list[Widget]:
    """The widgets of a node in the order of its `widgets_values`."""
    found = (widget_of(*spec) for spec in input_specs(schema))
    return [widget for widget in found if widget is not None]


def extra_entries(node_type: str, schema: dict[str, Any]) -> int:
    """How many more entries a node may have: an upload button's, a text preview's."""
    options = [given for _, _, given in input_specs(schema)]
    uploads = [
        count for key, count in ENTRIES_OF_OPTIONS.items() if any(o.get(key) for o in options)
    ]
    return sum(uploads) + ENTRIES_OF_NODES.get(node_type, 0)


def nested_input(schema: dict[str, Any]) -> str | None:
    """The name of an input whose choice decides which other inputs exist, if there is one."""
    return next((name for name, kind, _ in input_specs(schema) if kind == NESTING_TYPE), None)
