"""Edit Metrics: how near an edit comes to a picture, and to its prompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.host.views.measuring import measure_edit
from ..stylediffusion.measures.table import METRICS
from .sockets import CATEGORY


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
    def execute(
        cls, reference: Any, edit: Any, mask: Any = None, looked_at: Any = None, prompt: str = "",
        source_prompt: str = "", networks: bool = True,
    ) -> io.NodeOutput:
        found = measure_edit(
            reference, edit, mask, looked_at, prompt, source_prompt, networks)
        return io.NodeOutput(
            found.report, *found.means.values(), ui=ui.PreviewText(found.report))


NODES: list[type[io.ComfyNode]] = [EditMetrics]
