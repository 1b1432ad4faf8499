"""The shipped small model and the pictures it knows: to try everything without a download."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..demo import drawing, scenes
from .sockets import CATEGORY, EVERY_SEED


class LoadDemoModel(io.ComfyNode):
    """A small model that runs anywhere."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionLoadDemoModel",
            display_name="Load Demo Model",
            category=f"{CATEGORY}/demo",
            description="Loads the small text-to-image model that comes with the pack. It paints "
            "128x128 scenes: " + ", ".join(scenes.OBJECTS) + "; " + ", ".join(scenes.COLOURS)
            + "; in the " + ", ".join(scenes.PLACES) + "; as " + " or ".join(scenes.STYLES) + ".",
            search_aliases=["stylediffusion example model"],
            inputs=[],
            outputs=[
                io.Model.Output("model", tooltip="A MODEL like that of any checkpoint."),
                io.Clip.Output("clip", tooltip="Its text encoder."),
                io.Vae.Output("vae", tooltip="Its VAE."),
                io.ClipVision.Output("clip_vision", tooltip="Its vision tower, for Learn Value "
                                     "Embedding."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..demo import loading

        return io.NodeOutput(
            loading.load_model(), loading.load_clip(), loading.load_vae(), loading.load_vision())


class DemoScene(io.ComfyNode):
    """A picture the demo model can edit, with its caption."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionDemoScene",
            display_name="Demo Scene",
            category=f"{CATEGORY}/demo",
            description="Draws a 128x128 scene for the demo model, and its caption. With the same "
            "seed and another word it draws the true answer to an edit.",
            search_aliases=["stylediffusion example image"],
            inputs=[
                io.Combo.Input("object", options=list(scenes.OBJECTS), default="car",
                               tooltip="What stands in the scene."),
                io.Combo.Input("colour", options=list(scenes.COLOURS), default="red",
                               tooltip="Its colour."),
                io.Combo.Input("place", options=list(scenes.PLACES), default="meadow",
                               tooltip="Where it stands."),
                io.Combo.Input("style", options=list(scenes.STYLES), default="painting",
                               tooltip="How it is drawn."),
                io.Int.Input("seed", default=0, min=0, max=EVERY_SEED, control_after_generate=False,
                             tooltip="Chooses layout, horizon and size."),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The picture."),
                io.String.Output("caption", tooltip="A prompt that describes it."),
            ],
        )

    @classmethod
    def execute(
        cls, colour: str, place: str, style: str, seed: int, **inputs: Any
    ) -> io.NodeOutput:
        triple = (inputs["object"], colour, place)
        scene = scenes.scene_of(triple, style, random.Random(seed))
        pixels = np.asarray(drawing.draw(scene), dtype=np.float32) / 255
        return io.NodeOutput(torch.from_numpy(pixels)[None], scenes.caption(scene))


NODES: list[type[io.ComfyNode]] = [LoadDemoModel, DemoScene]
