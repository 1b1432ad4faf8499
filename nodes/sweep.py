"""Tau Sweep: one edit under many windows, on one sheet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.host.edit.request import Edit
from ..stylediffusion.host.views import tau_sweep
from ..stylediffusion.method.prompt_to_prompt import TAUS
from ..stylediffusion.prompts.notation import make_axes
from .sockets import CATEGORY, ControlSocket, TrajectorySocket, ValueEmbeddingSocket


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


NODES: list[type[io.ComfyNode]] = [TauSweep]
