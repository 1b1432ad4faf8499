"""Save Inversion and Load Inversion."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.host import inversions
from ..stylediffusion.host.console import shown
from .sockets import CATEGORY, TrajectorySocket, ValueEmbeddingSocket


class SaveInversion(io.ComfyNode):
    """An inversion, kept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionSaveInversion",
            display_name="Save Inversion",
            category=CATEGORY,
            description="Saves a trajectory, and the value embedding learnt on it, to one file in "
            "the output folder: another day's edits start where today's ended.",
            search_aliases=["save inversion", "save embedding", "stylediffusion"],
            is_output_node=True,
            inputs=[
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert."),
                ValueEmbeddingSocket.Input("value_embedding", optional=True, tooltip="From Learn "
                                           "Value Embedding; without it only the trajectory is "
                                           "saved."),
                io.String.Input("filename_prefix", default="StyleDiffusion/inversion",
                                tooltip="Folder and name under the output folder; "
                                "%year%, %month% and %day% are filled in."),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls, trajectory: Any, filename_prefix: str, value_embedding: Any = None
    ) -> io.NodeOutput:
        path = inversions.save_inversion(trajectory, value_embedding, filename_prefix)
        return io.NodeOutput(ui=ui.PreviewText(f"Saved as {path.name}"))


class LoadInversion(io.ComfyNode):
    """An inversion, again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionLoadInversion",
            display_name="Load Inversion",
            category=CATEGORY,
            description="Loads what Save Inversion saved, in the place of DDIM Invert and Learn "
            "Value Embedding. Edit with the model it was made with.",
            search_aliases=["load inversion", "load embedding", "stylediffusion"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=inversions.saved_inversions(),
                    tooltip="Inversions in "
                    "the output and input folders, newest first. Press R on the page "
                    "after saving a new one.",
                ),
            ],
            outputs=[
                TrajectorySocket.Output("trajectory", tooltip="In the place of DDIM Invert's."),
                ValueEmbeddingSocket.Output(
                    "value_embedding",
                    tooltip="In the place of Learn Value Embedding's; empty where none was saved.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        if file is None:  # linked: it is known when the graph runs
            return True
        try:
            inversions.path_of(file)
        except ValueError as error:
            return shown(str(error))
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None) -> str | float:
        if file is None:
            return math.nan  # equals nothing: the file may be another one
        state = inversions.path_of(file).stat()
        return f"{state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(*inversions.load_inversion(file))


NODES: list[type[io.ComfyNode]] = [SaveInversion, LoadInversion]
