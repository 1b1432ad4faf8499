"""Generate: a seed and a prompt in the place of a photo."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host.invert.generation import PictureSettings, generate
from .sockets import CATEGORY, EVERY_SEED, TrajectorySocket


def _side(name: str) -> io.Int.Input:
    return io.Int.Input(name, default=512, min=64, max=4096, step=8, tooltip=f"The {name} of the "
                        "picture in pixels.")


class Generate(io.ComfyNode):
    """A picture from a seed, ready for edits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionGenerate",
            display_name="Generate (StyleDiffusion)",
            category=CATEGORY,
            description="Paints a picture from a prompt and a seed and keeps the way it was "
            "painted, so that P2Plus Controller and Sample can edit it as they edit a photo. There "
            "is nothing to invert and nothing to learn.",
            search_aliases=["text to image", "prompt to prompt", "seed", "stylediffusion"],
            inputs=[
                io.Model.Input("model", tooltip="An SD1.x, SD2.x or SDXL model (epsilon or v "
                               "prediction), with LoRAs applied if you use any."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="",
                                tooltip="The picture to paint. Only words written here can be "
                                "replaced later."),
                io.String.Input("negative_prompt", multiline=True, dynamic_prompts=True,
                                default="", optional=True,
                                tooltip="What painting is guided away from."),
                _side("width"),
                _side("height"),
                io.Int.Input("steps", default=30, min=1, max=500, tooltip="Steps from noise to "
                             "picture."),
                io.Float.Input("guidance", default=7.5, min=1.0, max=30.0, step=0.1,
                               tooltip="How strongly the prompt is followed. Give Sample the same "
                               "number, or its first picture is another one."),
                io.Int.Input("seed", default=0, min=0, max=EVERY_SEED, control_after_generate=True,
                             tooltip="The noise the picture grows from. Fix it when you like what "
                             "you see, then edit."),
            ],
            outputs=[
                TrajectorySocket.Output("trajectory", tooltip="The way from noise to picture, for "
                                        "P2Plus Controller and Sample."),
                io.Latent.Output("latent", tooltip="The picture, for VAE Decode."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, prompt: str, width: int, height: int, steps: int,
        guidance: float, seed: int, negative_prompt: str = "",
    ) -> io.NodeOutput:
        return io.NodeOutput(*generate(model, clip, PictureSettings(
            prompt, negative_prompt, width, height, steps, guidance, seed)))


NODES: list[type[io.ComfyNode]] = [Generate]
