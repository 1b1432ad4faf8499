"""The graphs command: the real page opens every example and block, and saves it as it does.

    python -m development.graphs [NAME ...]

What a node has now and its graph does not, such as a new input, the page adds, with its default.
Edit a graph in the page itself (dev.py serve), save it over its file, and run this.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import browser, examples
from .examples import API, BLOCKS, EXAMPLES, FOLDER, Graph, Prompt

SETTLING_MS = 1000
OPEN = "graph => app.loadGraphData(graph, true, true)"
SAVE = """async () => {
    const { workflow, output } = await app.graphToPrompt()
    return JSON.stringify([workflow, output])
}"""
OF_THE_MOMENT = ("ds", "frontendVersion", "workflowRendererVersion")


def main() -> None:
    """Write workflows/*.json, workflows/api/*.json and subgraphs/*.json."""
    parser = argparse.ArgumentParser(prog="dev.py graphs")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the graphs, else all")
    names = parser.parse_args().names
    files = [*(FOLDER / f"{name}.json" for name in EXAMPLES), *sorted(BLOCKS.glob("*.json"))]
    with browser.page_of("graphs") as (page, _):
        for file in files:
            if not names or file.stem in names:
                page.evaluate(OPEN, before := examples.read(file))
                page.wait_for_timeout(SETTLING_MS)
                workflow, prompt = saved(page, before)
                write(file, workflow)
                if file.parent == FOLDER:
                    write(API / file.name, prompt)


def saved(page: Any, before: Graph) -> tuple[Graph, Prompt]:
    """What is on the page as it would save it, and as it would run it.

    What only tells of the moment, where one looks and which page saved it, stays as it was before.
    """
    workflow, prompt = json.loads(page.evaluate(SAVE))
    kept = {key: value for key, value in before["extra"].items() if key in OF_THE_MOMENT}
    extra = {key: value for key, value in workflow["extra"].items() if key not in OF_THE_MOMENT}
    was = {key: before[key] for key in ("id", "revision") if key in before}
    return {**workflow, **was, "extra": {**extra, **kept}}, prompt


def write(path: Path, graph: Graph) -> None:
    """Write a file where it changes, and say so."""
    text = examples.as_text(graph)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path.relative_to(examples.ROOT).as_posix(), flush=True)


if __name__ == "__main__":
    main()
