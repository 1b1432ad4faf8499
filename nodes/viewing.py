"""Cross-Attention Heatmaps and Comparison Sheet: seeing what a word and an edit do."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.host.edit.request import Edit
from ..stylediffusion.host.views import comparison, heatmaps
from .sockets import CATEGORY, ControlSocket, TrajectorySocket, ValueEmbeddingSocket


class Heatmaps(io.ComfyNode):
    """Where words look."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionHeatmaps",
            display_name="Cross-Attention Heatmaps",
            category=CATEGORY,
            description="Shows where each word of the prompt looks in the picture: in the "
            "inversion or, with a control or a value embedding, while they are sampled.",
            search_aliases=["attention map", "attention visualization", "daam", "stylediffusion"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint; it says "
                              "which tokens a word has."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert. Alone, its own "
                                       "steps are looked at again, which needs no sampling."),
                io.Image.Input("image", optional=True, tooltip="The picture to lay the heat over. "
                               "Without it a rough one is made from the trajectory."),
                ValueEmbeddingSocket.Input("value_embedding", optional=True, tooltip="From Learn "
                                           "Value Embedding: look while the picture is sampled "
                                           "with it."),
                ControlSocket.Input("control", optional=True, tooltip="From P2Plus Controller: "
                                    "look while its edits are sampled, at the maps as edited."),
                io.String.Input("words", default="", tooltip="Words to show: cat, city. Empty: all "
                                "words of the prompt."),
                io.Int.Input("target", default=0, min=0, max=1000, tooltip="0 shows the source; a "
                             "larger number shows that line of the controller's targets."),
                io.String.Input("steps", default="0-1", tooltip="Share of the sampling steps to "
                                "sum over, noisiest first: 0-1 is all of them, 0-0.3 where the "
                                "layout is made, 0.7-1 where details are."),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="One picture with a labelled tile for each word."),
                io.Mask.Output("masks", tooltip="One mask for each word, 1 where it looks most, at "
                               "the picture's size."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, trajectory: Any, words: str, target: int, steps: str,
        image: Any = None, value_embedding: Any = None, control: Any = None,
    ) -> io.NodeOutput:
        edit = Edit(model, trajectory, value_embedding, control)
        request = heatmaps.HeatRequest(words, target, steps)
        sheet, masks = heatmaps.heatmaps(edit, clip, image, request)
        return io.NodeOutput(sheet, masks, ui=ui.PreviewImage(sheet, cls=cls))


class ComparisonSheet(io.ComfyNode):
    """Source, reconstruction and edits side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionComparisonSheet",
            display_name="Comparison Sheet",
            category=CATEGORY,
            description="Puts your picture, its reconstruction and all edits on one labelled "
            "sheet, and says how near the reconstruction comes to what the VAE allows.",
            search_aliases=["compare images", "psnr", "contact sheet", "stylediffusion"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture that was inverted."),
                io.Vae.Input("vae", tooltip="The VAE it was encoded with."),
                io.Latent.Input("latent", tooltip="From Sample: the reconstruction, then one "
                                "latent for each edit."),
                ControlSocket.Input("control", optional=True, tooltip="From P2Plus Controller: the "
                                    "edits are labelled by their prompts."),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="One picture with everything on it."),
                io.String.Output("report", tooltip="The reconstruction's nearness to your picture "
                                 "in dB, and the ceiling: that of the VAE alone."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, vae: Any, latent: dict[str, Any], control: Any = None
    ) -> io.NodeOutput:
        sheet, report = comparison.compare(image, vae, latent, control)
        shown = {**ui.PreviewImage(sheet, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(sheet, report, ui=shown)


NODES: list[type[io.ComfyNode]] = [Heatmaps, ComparisonSheet]
