"""P2Plus Controller, Sample, P2Plus Guider and Keep Unedited Pixels."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.drawing.compositing import keep_pixels
from ..stylediffusion.host.edit.controller import MODES, WordOptions, make_control
from ..stylediffusion.host.edit.request import Edit
from ..stylediffusion.host.edit.sampling import sample_with_masks, sampling_parts
from ..stylediffusion.method.local_blend import Blend
from ..stylediffusion.method.prompt_to_prompt import Window
from ..stylediffusion.prompts.notation import require_readable
from .sockets import CATEGORY, ControlSocket, TrajectorySocket, ValueEmbeddingSocket


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
                     "(self-attention). Lower it where a new object keeps the old outline."),
                _tau("tau_u", "Uncond kept", 0.0, "P2Plus: share of the steps in which the layout "
                     "is held for the unconditional branch too. The paper's way for large changes; "
                     "on the demo model 0 kept more of the rest."),
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
                         "step (direct inversion): it comes back as well as the VAE allows, "
                         "even without a value embedding, and the edits follow it."),
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
                io.Sampler.Output("sampler", tooltip="Euler, which is DDIM here."),
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


class KeepPixels(io.ComfyNode):
    """Edits within their masks, and the photo's own pixels everywhere else."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionKeepPixels",
            display_name="Keep Unedited Pixels",
            category=CATEGORY,
            description="Lays the edits into your photo at its full size: every pixel that no "
            "edit reaches stays exactly as it was.",
            search_aliases=["composite", "paste back", "stitch", "original size", "stylediffusion"],
            is_output_node=True,
            inputs=[
                # First, since the page hands on the first picture of a bypassed node.
                io.Image.Input("edits", tooltip="From VAE Decode, all pictures of Sample's latent. "
                               "With one picture more than masks the first is the "
                               "reconstruction, and the photo takes its place."),
                io.Image.Input("image", tooltip="Your photo at its full size, before it was scaled "
                               "for the model."),
                io.Mask.Input("mask", tooltip="From Sample: where each edit shows; or masks "
                              "painted on the photo, one for each edit."),
                io.Int.Input("feather", default=8, min=0, max=256, tooltip="How many of the "
                             "photo's pixels around the mask go over from the edit to the photo; "
                             "the mask itself is the edit, what is farther away the photo."),
            ],
            outputs=[
                io.Image.Output("images", tooltip="One picture for each of the edits, at the "
                                "photo's full size."),
                io.Float.Output("difference", tooltip="The largest difference to the photo where "
                                "it is to be kept: 0."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, edits: Any, mask: Any, feather: int) -> io.NodeOutput:
        kept = keep_pixels(image, edits, mask, feather)
        return io.NodeOutput(kept.images, kept.difference, ui=ui.PreviewText(kept.report))


NODES: list[type[io.ComfyNode]] = [P2PlusController, Sample, P2PlusGuider, KeepPixels]
