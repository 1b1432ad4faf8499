"""What `dev.py edits` and `dev.py bench paper` ask of a model where nothing is said."""

import argparse
import json
from pathlib import Path
from typing import Any

from edits.__main__ import add_edit_options, settings_for
from edits.graphs import Settings

DEMO = Path(__file__).resolve().parents[2] / "workflows" / "api" / "Demo.json"


def settings(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_edit_options(parser)
    return settings_for(parser.parse_args(arguments))


def inputs_in_the_demo_graph(kind: str) -> dict[str, Any]:
    nodes = json.loads(DEMO.read_text(encoding="utf-8")).values()
    return next(node["inputs"] for node in nodes if node["class_type"] == f"StyleDiffusion{kind}")


def test_the_demo_model_works_at_the_size_guidance_and_blend_of_its_own_graph() -> None:
    found, control = settings(), inputs_in_the_demo_graph("P2PlusController")
    assert found.side == 128
    assert found.guidance == inputs_in_the_demo_graph("LearnValueEmbedding")["guidance"]
    assert found.blend == (
        control["blend_threshold"], control["blend_start"], control["blend_pooling"])


def test_a_checkpoint_works_at_the_nodes_own_defaults() -> None:
    assert settings("--checkpoint", "a.safetensors") == Settings(checkpoint="a.safetensors")


def test_what_is_said_holds_for_either_model() -> None:
    said = ("--guidance", "2", "--side", "256", "--steps", "9", "--seed", "4")
    for model in ((), ("--checkpoint", "a.safetensors")):
        found = settings(*said, *model)
        assert (found.guidance, found.side, found.steps, found.seed) == (2.0, 256, 9, 4)
