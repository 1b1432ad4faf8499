"""Keep Unedited Pixels: the edits in the photo, at its own size."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..stylediffusion.drawing.compositing import keep_pixels
from .sockets import CATEGORY


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
                io.Image.Input("image", tooltip="Your photo at its full size, before it was scaled "
                               "for the model."),
                io.Image.Input("edits", tooltip="From VAE Decode, all pictures of Sample's latent. "
                               "With one picture more than masks the first is the "
                               "reconstruction, and the photo takes its place."),
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
        found = keep_pixels(image, edits, mask, feather)
        return io.NodeOutput(found.images, found.difference, ui=ui.PreviewText(found.report))


NODES: list[type[io.ComfyNode]] = [KeepPixels]
