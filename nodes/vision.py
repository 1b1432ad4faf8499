"""Load CLIP Vision (ViT-B/16): the tower the paper looks at pictures with."""

from __future__ import annotations

from comfy_api.latest import io

from ..stylediffusion.host import vision
from .sockets import CATEGORY


class LoadCLIPVision(io.ComfyNode):
    """OpenAI's vision towers, those the host refuses included."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionLoadCLIPVision",
            display_name="Load CLIP Vision (ViT-B/16)",
            category=CATEGORY,
            description="Loads an OpenAI CLIP vision tower of any size, such as ViT-B/16, which "
            "the paper uses and ComfyUI's own loader does not know.",
            search_aliases=["clip vision loader", "vit b 16", "stylediffusion"],
            inputs=[
                io.Combo.Input("clip_name", options=vision.vision_files(), tooltip="Files in "
                               "models/clip_vision. The paper's is model.safetensors of "
                               "openai/clip-vit-base-patch16."),
            ],
            outputs=[
                io.ClipVision.Output("clip_vision", tooltip="For Learn Value Embedding with the "
                                     "preset exact."),
            ],
        )

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        return io.NodeOutput(vision.load_vision(clip_name))


NODES: list[type[io.ComfyNode]] = [LoadCLIPVision]
