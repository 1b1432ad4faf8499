"""Sample: the reconstruction and every edit in one batch; P2Plus Guider: the same in parts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host.edit.request import Edit
from ..stylediffusion.host.edit.sampling import sample_with_masks, sampling_parts
from .sockets import CATEGORY, ControlSocket, TrajectorySocket, ValueEmbeddingSocket


def _inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model the picture was inverted with."),
        TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert or Generate."),
        ValueEmbeddingSocket.Input("value_embedding", optional=True, tooltip="From Learn "
                                   "Value Embedding. Without it this is plain DDIM "
                                   "inversion, which drifts from your picture."),
        ControlSocket.Input("control", optional=True, tooltip="From P2Plus Controller. "
                            "Without it only the reconstruction is painted."),
        io.Float.Input("guidance", default=0.0, min=0.0, max=30.0, step=0.1,
                       tooltip="0 takes the guidance the embedding was learnt with (7.5 "
                       "without one); another number departs from your picture."),
        io.Boolean.Input("exact_source", default=False, advanced=True, tooltip="Sets the "
                         "reconstruction back on the way of the inversion after every "
                         "step (direct inversion): it comes back exactly, even without "
                         "a value embedding, and the edits follow it."),
    ]


class Sample(io.ComfyNode):
    """Paints the reconstruction and the edits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionSample",
            display_name="Sample (StyleDiffusion)",
            category=CATEGORY,
            description="Paints the picture again and, beside it, every edit the controller asks "
            "for. The first latent of the batch is the reconstruction.",
            search_aliases=["prompt to prompt", "edit real image", "stylediffusion"],
            inputs=_inputs(),
            outputs=[
                io.Latent.Output("latent", tooltip="Reconstruction first, then one latent a "
                                 "target, for VAE Decode."),
                io.Mask.Output("mask", tooltip="Where each edit was let show at the end, at the "
                               "picture's size: all of it where nothing was blended."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, trajectory: Any, guidance: float, value_embedding: Any = None,
        control: Any = None, exact_source: bool = False,
    ) -> io.NodeOutput:
        edit = Edit(model, trajectory, value_embedding, control, guidance, exact_source)
        return io.NodeOutput(*sample_with_masks(edit))


class P2PlusGuider(io.ComfyNode):
    """What Sample does, in the parts that the host's own sampler takes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionP2PlusGuider",
            display_name="P2Plus Guider",
            category=CATEGORY,
            description="Sample in parts: noise, guider, sampler, sigmas and latent for "
            "SamplerCustomAdvanced, to put other nodes between them.",
            search_aliases=["custom sampling", "prompt to prompt", "stylediffusion"],
            inputs=_inputs(),
            outputs=[
                io.Noise.Output("noise", tooltip="None: the latent is noise already."),
                io.Guider.Output("guider", tooltip="The model with the edits; gives the "
                                 "reconstruction and one more row a target."),
                io.Sampler.Output("sampler", tooltip="Euler, which is DDIM here; with the local "
                                  "blend after each step where there is one."),
                io.Sigmas.Output("sigmas", tooltip="The noise levels of the trajectory."),
                io.Latent.Output("latent", tooltip="The noise that the picture was walked back "
                                 "to."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, trajectory: Any, guidance: float, value_embedding: Any = None,
        control: Any = None, exact_source: bool = False,
    ) -> io.NodeOutput:
        parts = sampling_parts(Edit(
            model, trajectory, value_embedding, control, guidance, exact_source))
        return io.NodeOutput(
            parts.noise, parts.guider, parts.sampler, parts.sigmas, parts.latent)


NODES: list[type[io.ComfyNode]] = [Sample, P2PlusGuider]
