"""DDIM Invert and Generate: from a picture, or a seed, to a trajectory."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host.control_nets import with_hint
from ..stylediffusion.host.invert.generation import PictureSettings, generate
from ..stylediffusion.host.invert.inversion import invert_and_watch
from ..stylediffusion.method.fixed_point import DDIM, INVERSIONS, refinement
from ..stylediffusion.method.schedule import deeper_steps
from .sockets import CATEGORY, EVERY_SEED, TrajectorySocket

log = logging.getLogger("stylediffusion")


class DDIMInvert(io.ComfyNode):
    """Photo to noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionDDIMInvert",
            display_name="DDIM Invert",
            category=CATEGORY,
            description="Walks a picture back to the noise it would have come from, under a prompt "
            "that describes it. Editing a picture of your own starts here.",
            search_aliases=["inversion", "edit real image", "prompt to prompt", "stylediffusion"],
            has_intermediate_output=True,  # a page that was reloaded hears of the words' heat again
            inputs=[
                io.Model.Input("model", tooltip="An SD1.x, SD2.x or SDXL model (epsilon or v "
                               "prediction), with LoRAs applied if you use any."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Latent.Input("latent", tooltip="Your picture, from VAE Encode. One picture, any "
                                "size."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="",
                                tooltip="Describe the picture as it is. Only words written here "
                                "can be replaced later."),
                io.String.Input("negative_prompt", multiline=True, dynamic_prompts=True,
                                default="", optional=True, advanced=True, tooltip="What learning "
                                "and sampling are guided away from. Usually empty."),
                io.Int.Input("steps", default=30, min=1, max=500, tooltip="Steps from picture to "
                             "noise. More steps follow the picture more closely and take longer "
                             "to learn; 30 is the paper's number."),
                io.ControlNet.Input("control_net", optional=True, tooltip="A ControlNet for your "
                                    "checkpoint. Inversion, learning and edits all run under it, "
                                    "so edits keep what its hint shows. Needs control_image."),
                io.Image.Input("control_image", optional=True, tooltip="The hint for control_net: "
                               "edges, depth or whatever it reads, made from your picture. "
                               "Resized by itself."),
                io.Float.Input("control_strength", default=1.0, min=0.0, max=10.0, step=0.01,
                               optional=True, advanced=True, tooltip="How strongly the hint "
                               "holds. 0 is the same as no ControlNet."),
                io.Combo.Input("inversion", options=list(INVERSIONS), default=DDIM, optional=True,
                               advanced=True, tooltip="DDIM takes each step's noise from before "
                               "it. fixed point and Anderson look again until the step is the one "
                               "that sampling undoes; Anderson gets there sooner. EasyInv averages "
                               "two latents in some steps."),
                io.Int.Input("iterations", default=3, min=1, max=50, optional=True, advanced=True,
                             tooltip="fixed point and Anderson only: how often each step looks "
                             "again at the most. Every look takes as long as a step."),
            ],
            outputs=[
                TrajectorySocket.Output("trajectory", tooltip="The way from picture to noise, for "
                                        "all other StyleDiffusion nodes."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, latent: dict[str, Any], prompt: str, steps: int,
        negative_prompt: str = "", control_net: Any = None, control_image: Any = None,
        control_strength: float = 1.0, inversion: str = DDIM, iterations: int = 3,
    ) -> io.NodeOutput:
        better = deeper_steps(steps)
        if better is not None:
            log.warning("%d steps stop short of the noise; %d reach it", steps, better)
        control = with_hint(control_net, control_image, control_strength)
        trajectory, heat = invert_and_watch(
            model, clip, latent, prompt, negative_prompt, steps, control,
            refinement(inversion, iterations))
        return io.NodeOutput(trajectory, ui=heat and heat.shown(model, trajectory))


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


NODES: list[type[io.ComfyNode]] = [DDIMInvert, Generate]
