"""P2Plus Controller."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host.edit.controller import MODES, WordOptions, make_control
from ..stylediffusion.method.local_blend import Blend
from ..stylediffusion.method.prompt_to_prompt import Window
from ..stylediffusion.prompts.notation import require_readable
from .sockets import CATEGORY, ControlSocket, TrajectorySocket


def _tau(name: str, shown: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name, display_name=f"{shown} ({name})", default=default, min=0.0, max=1.0, step=0.05,
        tooltip=tooltip)


def _words(name: str, tooltip: str, advanced: bool = False) -> io.String.Input:
    return io.String.Input(name, default="", optional=True, advanced=advanced, tooltip=tooltip)


class P2PlusController(io.ComfyNode):
    """Which words change and how strongly structure is held."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionP2PlusController",
            display_name="P2Plus Controller",
            category=CATEGORY,
            description="Says which words of the prompt change and how strongly the picture's "
            "structure is held while they do.",
            search_aliases=["prompt to prompt", "p2p", "attention control", "stylediffusion"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert; it knows the "
                                       "source prompt."),
                io.String.Input("targets", multiline=True, dynamic_prompts=True, default="",
                                tooltip="The edited prompt; one edit a line, all painted at once. "
                                "Keep the words that should stay."),
                io.Combo.Input("mode", options=list(MODES), default="auto", tooltip="replace swaps "
                               "words one for one (equal word count); refine keeps shared words "
                               "and adds new ones; auto chooses for each line by word count."),
                _tau("tau_v", "Look kept", 0.5, "Share of the steps in which edits hear the learnt "
                     "value embedding. More keeps the picture's look, less frees it."),
                _tau("tau_c", "Places kept", 0.6, "Share of the steps in which words keep their "
                     "places in the picture (cross-attention). Lower it for larger changes of "
                     "shape."),
                _tau("tau_s", "Layout kept", 0.6, "Share of the steps in which the layout is held "
                     "(self-attention). Lower it when a new object needs another outline."),
                _tau("tau_u", "Uncond kept", 0.0, "P2Plus: share of the steps in which the layout "
                     "is held for the unconditional branch too. 0.5 for large structural changes."),
                _words("blend_words", "The edit shows only where these words look: cat, boat. With "
                       "several targets: one list for all, or one for each between semicolons. "
                       "Empty: everywhere."),
                _words("emphasis", "How loud a word is: tiger: 1.5, red car: 0.5. 1 leaves a word "
                       "as it is. With several targets: one list for all, or one for each between "
                       "semicolons."),
                _words("subtract_words", "With blend_words: the edit never shows where these words "
                       "look.", advanced=True),
                _words("windows", "Exceptions to the shares above: tau_c: 0.1-0.6 gives one a "
                       "start as well, tiger: 0-0.4 gives one word its own tau_c. With several "
                       "targets: one list for all, or one for each between semicolons.",
                       advanced=True),
                io.Float.Input("blend_threshold", default=0.3, min=0.0, max=1.0, step=0.05,
                               optional=True, advanced=True, tooltip="With blend_words: how "
                               "strongly a place must look at the words, as a share of the "
                               "strongest. Raise it for a smaller region."),
                io.Float.Input("blend_start", default=0.2, min=0.0, max=1.0, step=0.05,
                               optional=True, advanced=True, tooltip="With blend_words or a "
                               "mask: the share of the steps after which the region is kept."),
                io.Int.Input("blend_pooling", default=3, min=1, max=15, step=2, optional=True,
                             advanced=True, tooltip="With blend_words: how many cells of the "
                             "attention map a word's place spreads over. 1 keeps to the word; an "
                             "odd number."),
                io.Float.Input("blend_softness", default=0.0, min=0.0, max=1.0, step=0.05,
                               optional=True, advanced=True, tooltip="With blend_words: how soft "
                               "the edge of the region is. 0 is a hard edge."),
                io.Mask.Input("mask", optional=True, tooltip="Paint the region yourself, in place "
                              "of blend_words: the edit shows where it is white. One for all "
                              "targets, or one a target."),
            ],
            outputs=[ControlSocket.Output("control", tooltip="The edits, for Sample.")],
        )

    @classmethod
    def validate_inputs(
        cls, targets: str | None = None, emphasis: str | None = "", windows: str | None = "",
        blend_words: str | None = "", subtract_words: str | None = "",
    ) -> bool | str:
        try:
            require_readable(
                targets, emphasis or "", windows or "", blend_words or "", subtract_words or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, clip: Any, trajectory: Any, targets: str, mode: str, tau_v: float, tau_c: float,
        tau_s: float, tau_u: float, blend_threshold: float = 0.3, blend_start: float = 0.2,
        blend_pooling: int = 3, blend_softness: float = 0.0, mask: Any = None, **words: str,
    ) -> io.NodeOutput:
        ends = {"tau_v": tau_v, "tau_c": tau_c, "tau_s": tau_s, "tau_u": tau_u}
        windows = {name: Window(0.0, end) for name, end in ends.items()}
        return io.NodeOutput(make_control(
            clip, trajectory, targets, mode, windows, WordOptions(**words),
            Blend(blend_threshold, blend_start, blend_pooling, blend_softness), mask))


NODES: list[type[io.ComfyNode]] = [P2PlusController]
