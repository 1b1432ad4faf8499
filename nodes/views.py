"""Heatmaps, sheets, a sweep and measures: seeing what a word and an edit do."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.host.edit.request import Edit
from ..stylediffusion.host.views import comparison, heatmaps, tau_sweep
from ..stylediffusion.host.views.measuring import files_state, measure_edit
from ..stylediffusion.measures.table import METRICS
from ..stylediffusion.method.prompt_to_prompt import TAUS
from ..stylediffusion.prompts.notation import make_axes
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
                io.String.Input("labels", optional=True, force_input=True, tooltip="A name for "
                                "each edit, one a line, in the place of prompts or numbers."),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="One picture with everything on it."),
                io.String.Output("report", tooltip="The reconstruction's nearness to your picture "
                                 "in dB, and the ceiling: that of the VAE alone."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, vae: Any, latent: dict[str, Any], control: Any = None, labels: str = ""
    ) -> io.NodeOutput:
        sheet, report = comparison.compare(image, vae, latent, control, labels)
        shown = {**ui.PreviewImage(sheet, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(sheet, report, ui=shown)


def _values(name: str, tau: str) -> io.String.Input:
    return io.String.Input(name, default="0, 0.3, 0.6, 0.9", tooltip=f"The values of {tau}: "
                           "shares of the steps, as in 0, 0.3, 0.6, or windows with a start as "
                           "well, as in 0.1-0.6.")


class TauSweep(io.ComfyNode):
    """A grid of one edit over two taus."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionTauSweep",
            display_name="Tau Sweep",
            category=CATEGORY,
            description="Paints one edit under many values of two taus, all in one batch, and "
            "puts them on one labelled sheet, so that you can pick the best.",
            search_aliases=["xy plot", "parameter grid", "stylediffusion"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                io.Vae.Input("vae", tooltip="The VAE the picture was encoded with; it decodes the "
                             "sheet's pictures."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert."),
                ValueEmbeddingSocket.Input("value_embedding", optional=True, tooltip="From Learn "
                                           "Value Embedding. Without it tau_v has no effect."),
                ControlSocket.Input("control", tooltip="From P2Plus Controller: one of its "
                                    "targets, with all its words, emphasis and blend."),
                io.Combo.Input("rows", options=list(TAUS), default="tau_s",
                               tooltip="The tau that differs from row to row."),
                _values("row_values", "the rows' tau"),
                io.Combo.Input("columns", options=list(TAUS), default="tau_c",
                               tooltip="The tau that differs from column to column."),
                _values("column_values", "the columns' tau"),
                io.Int.Input("target", default=1, min=1, max=1000, tooltip="Which line of the "
                             "controller's targets is painted."),
                io.Float.Input("guidance", default=0.0, min=0.0, max=30.0, step=0.1,
                               tooltip="0 takes the guidance the embedding was learnt with (7.5 "
                               "without one)."),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="One latent for each cell, row by row from the "
                                 "top, without the reconstruction."),
                io.Image.Output("sheet", tooltip="One picture with all cells, labelled."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, trajectory: Any, control: Any, rows: str, row_values: str,
        columns: str, column_values: str, target: int, guidance: float, value_embedding: Any = None,
    ) -> io.NodeOutput:
        axes = make_axes((rows, row_values), (columns, column_values))
        edit = Edit(model, trajectory, value_embedding, control, guidance)
        latent, sheet = tau_sweep.sweep(edit, vae, axes, target)
        return io.NodeOutput(latent, sheet, ui=ui.PreviewImage(sheet, cls=cls))


class EditMetrics(io.ComfyNode):
    """The numbers of published tables, each by its definition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionEditMetrics",
            display_name="Edit Metrics",
            category=CATEGORY,
            description="Measures edits against a picture and their prompt: PSNR, SSIM and MSE "
            "and, with their networks in your model folders, LPIPS, structure distance and "
            "CLIPScore, each as the published tables define it.",
            search_aliases=["psnr", "ssim", "lpips", "clip score", "compare images",
                            "stylediffusion"],
            is_output_node=True,
            inputs=[
                io.Image.Input("reference", tooltip="What the edits are compared with: the picture "
                               "they were made from or, where you have it, the true edit."),
                io.Image.Input("edit", tooltip="The edits. Same size as the reference: nothing is "
                               "resized."),
                io.Mask.Input("mask", optional=True, tooltip="Where the edit is meant to be. "
                              "Outside it the picture should stay."),
                io.Mask.Input("looked_at", optional=True, tooltip="Where the source's blend word "
                              "looks, from Cross-Attention Heatmaps, for NS-LPIPS."),
                io.String.Input("prompt", multiline=True, default="", optional=True,
                                tooltip="The target prompt, for CLIPScore; or one line for each "
                                "edit."),
                io.String.Input("source_prompt", multiline=True, default="", optional=True,
                                tooltip="The source prompt, for the directional CLIP similarity."),
                io.Boolean.Input("networks", default=True, optional=True, tooltip="Off leaves out "
                                 "the metrics that look through networks, which take longer."),
            ],
            outputs=[
                io.String.Output("report", tooltip="Every metric on a line, and for those without "
                                 "a number the reason."),
                *(io.Float.Output(metric.name, tooltip=f"{metric.title}: the mean over the edits.")
                  for metric in METRICS),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> list[str]:
        return files_state()

    @classmethod
    def execute(
        cls, reference: Any, edit: Any, mask: Any = None, looked_at: Any = None, prompt: str = "",
        source_prompt: str = "", networks: bool = True,
    ) -> io.NodeOutput:
        measured = measure_edit(
            reference, edit, mask, looked_at, prompt, source_prompt, networks)
        return io.NodeOutput(
            measured.report, *measured.means.values(), ui=ui.PreviewText(measured.report))


NODES: list[type[io.ComfyNode]] = [Heatmaps, ComparisonSheet, TauSweep, EditMetrics]
