"""DDIM Invert and Learn Value Embedding."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host.control_nets import with_hint
from ..stylediffusion.host.invert.inversion import invert_latent
from ..stylediffusion.host.learn.embedding import (
    learn_embeddings,
    loss_map,
)
from ..stylediffusion.host.learn.tasks import listed_tasks
from ..stylediffusion.method.fixed_point import DDIM, INVERSIONS, refinement
from ..stylediffusion.method.schedule import deeper_steps
from ..stylediffusion.method.value_embedding import FORMS
from .sockets import CATEGORY, EVERY_SEED, TrajectorySocket, ValueEmbeddingSocket

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
        return io.NodeOutput(invert_latent(
            model, clip, latent, prompt, negative_prompt, steps, control,
            refinement(inversion, iterations)))


class LearnValueEmbedding(io.ComfyNode):
    """What the value path must hear to give exactly that photo back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionLearnValueEmbedding",
            display_name="Learn Value Embedding",
            category=CATEGORY,
            description="Learns, for every step, what the value path of cross-attention must hear "
            "so that guided sampling gives exactly your picture back. Learn once, edit often.",
            is_input_list=True,
            search_aliases=["null text inversion", "embedding optimization", "stylediffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="exact only, with an "
                                    "image: the paper's mapping network learns from its tokens. "
                                    "Without either, scale and shift are learnt directly."),
                io.Image.Input("image", optional=True, tooltip="The picture that was inverted, for "
                               "clip_vision to look at."),
                io.Combo.Input("preset", options=["fast", "exact"], default="fast",
                               tooltip="fast: a few quasi-Newton updates of the value input, "
                               "kept as a scale and a shift. exact: the authors' networks, "
                               "schedule and early stop, and slower."),
                io.Float.Input("guidance", default=7.5, min=1.0, max=30.0, step=0.1,
                               tooltip="The guidance you will sample with. Higher edits more "
                               "strongly and is harder to learn."),
                io.Int.Input("seed", default=0, min=0, max=EVERY_SEED, control_after_generate=False,
                             tooltip="exact only: starts the mapping network. The same seed "
                             "learns the same embedding."),
                io.Int.Input("inner_steps", default=100, min=1, max=1000, advanced=True,
                             tooltip="exact only: the most updates at the noisiest step; later "
                             "steps get fewer, and every step stops when it is good enough."),
                io.Float.Input("learning_rate", default=0.01, min=0.0001, max=1.0, step=0.0001,
                               round=0.00001, advanced=True, tooltip="exact only: how large an "
                               "update is. Lower it if the loss is not finite."),
                io.Float.Input("attention_weight", default=1.0, min=0.0, max=100.0, step=0.1,
                               advanced=True, tooltip="exact only: how strongly the attention "
                               "maps of the inversion are held. 0 learns a little faster and "
                               "holds only the picture."),
                io.Combo.Input("form", options=list(FORMS), default=FORMS[0], advanced=True,
                               tooltip="What is learnt: a scale and a shift of the prompt "
                               "embedding, as the authors' code does, or, as the paper writes it, "
                               "the value input itself, which edits then share."),
            ],
            outputs=[
                ValueEmbeddingSocket.Output("value_embedding", is_output_list=True,
                                            tooltip="What the value path hears at every step, for "
                                            "Sample."),
                io.LossMap.Output("loss", is_output_list=True,
                                  tooltip="Every loss on the way, for Plot Loss Graph."),
            ],
        )

    @classmethod
    def execute(cls, **lists: list[Any]) -> io.NodeOutput:
        embeddings = learn_embeddings(listed_tasks(**lists))
        return io.NodeOutput(embeddings, [loss_map(embedding) for embedding in embeddings])


NODES: list[type[io.ComfyNode]] = [DDIMInvert, LearnValueEmbedding]
