"""The locales command: what the English page says of every node, from the node definitions.

The host serves locales/<language>/nodeDefs.json to the page. English is written here; the other
languages hold the same keys and are written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import environment
from .places import PACK_NAME, ROOT
from .server import Server

FOLDER = ROOT / "locales"
Texts = dict[str, Any]
Leaf = tuple[str, ...]


def main() -> None:
    """Write locales/en/nodeDefs.json and name what the translations lack or have too much."""
    found = environment.ensure()
    with Server(found.python, found.host, found.base_directory("locales")) as server:
        texts = english(server.object_info())
    path_of("en").write_text(as_text(texts), encoding="utf-8", newline="\n")
    print(path_of("en").relative_to(ROOT).as_posix())
    wanted = {key for key, _ in leaves(texts)}
    for language in sorted(path.name for path in FOLDER.iterdir()):
        for key in sorted(wanted ^ {key for key, _ in leaves(read(language))}):
            print(f"{language}: {'missing' if key in wanted else 'too much'}: {'.'.join(key)}")


def english(object_info: dict[str, Any]) -> Texts:
    """The texts of the pack's nodes, by node id, from the host's node definitions."""
    return {node: _texts(object_info[node])
            for node in sorted(object_info) if node.lower().startswith(PACK_NAME)}


def _texts(definition: dict[str, Any]) -> Texts:
    """One node's, without what has no entries."""
    specs = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
    outputs = zip(definition["output_name"], definition["output_tooltips"], strict=True)
    texts = {
        "display_name": definition["display_name"],
        "description": definition["description"],
        "inputs": {name: {"name": options.get("display_name") or name,
                          "tooltip": options["tooltip"]} for name, (_, options) in specs.items()},
        "outputs": {str(i): {"name": name, "tooltip": tooltip}
                    for i, (name, tooltip) in enumerate(outputs)},
    }
    return {key: value for key, value in texts.items() if value}


def leaves(texts: Texts, above: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Every text with the keys that lead to it."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def path_of(language: str) -> Path:
    """The file of one language."""
    return FOLDER / language / "nodeDefs.json"


def read(language: str) -> Texts:
    """The texts of one language."""
    return dict(json.loads(path_of(language).read_text(encoding="utf-8")))


def as_text(texts: Texts) -> str:
    """As it stands in the file."""
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
