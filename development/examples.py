"""The example graphs of workflows/ and the blocks of subgraphs/: files as the real page saves them.

Of every example there are two: NAME.json, which the page opens, and api/NAME.json, which the
server runs. `dev.py graphs` has the page write both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .places import ROOT

FOLDER, BLOCKS = ROOT / "workflows", ROOT / "subgraphs"
API = FOLDER / "api"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))

Graph = dict[str, Any]
Prompt = dict[str, dict[str, Any]]


def workflow(name: str) -> Graph:
    """An example as the page opens it."""
    return read(FOLDER / f"{name}.json")


def prompt(name: str) -> Prompt:
    """An example as the server runs it."""
    return read(API / f"{name}.json")


def node_of(prompt: Prompt, kind: str) -> str:
    """The id of the one node of a type."""
    (node_id,) = (node_id for node_id, node in prompt.items() if node["class_type"] == kind)
    return node_id


def leading_to(prompt: Prompt, kind: str) -> Prompt:
    """Of a prompt what nodes of one type need, and themselves."""
    kept: Prompt = {}
    left = [node_id for node_id, node in prompt.items() if node["class_type"] == kind]
    while left:
        node_id = left.pop()
        kept[node_id] = prompt[node_id]
        left += [value[0] for value in prompt[node_id]["inputs"].values()
                 if isinstance(value, list) and value[0] not in kept]
    return {node_id: node for node_id, node in prompt.items() if node_id in kept}


def models(name: str) -> list[dict[str, str]]:
    """The files that an example asks for: name, address and folder of each."""
    return [model for node in workflow(name)["nodes"]
            for model in node["properties"].get("models", [])]


def read(path: Path) -> dict[str, Any]:
    """One JSON file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Settings:
    """What an example sets: the guidance learnt for, the taus and the blend.

    `blend` is its threshold, start and pooling.
    """

    guidance: float
    taus: dict[str, float]
    blend: tuple[float, float, int]


def settings(name: str) -> Settings:
    """Those of an example with one Learn Value Embedding and one P2Plus Controller."""
    nodes = prompt(name)
    control = nodes[node_of(nodes, "StyleDiffusionP2PlusController")]["inputs"]
    learning = nodes[node_of(nodes, "StyleDiffusionLearnValueEmbedding")]["inputs"]
    taus = {tau: float(control[tau]) for tau in ("tau_v", "tau_c", "tau_s", "tau_u")}
    blend = tuple(control[f"blend_{name}"] for name in ("threshold", "start", "pooling"))
    return Settings(float(learning["guidance"]), taus, blend)


def as_text(graph: Graph) -> str:
    """A graph as its file holds it."""
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"
