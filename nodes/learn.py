"""Learn Value Embedding, Learn Prompt Embedding, and the tower that exact looks with."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host import vision
from ..stylediffusion.host.learn.embedding import (
    NEGATIVE_PROMPT,
    learn_embeddings,
    learn_prompt_embedding,
    loss_map,
)
from ..stylediffusion.host.learn.tasks import listed_tasks
from ..stylediffusion.method.data import NULL_TEXT, TEXT_EMBEDDING
from ..stylediffusion.method.value_embedding import FORMS
from .sockets import CATEGORY, EVERY_SEED, TrajectorySocket, ValueEmbeddingSocket


class LearnValueEmbedding(io.ComfyNode):
    """What the value path must hear to give that photo back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionLearnValueEmbedding",
            display_name="Learn Value Embedding",
            category=CATEGORY,
            description="Learns, for every step, what the value path of cross-attention must hear "
            "so that guided sampling gives your picture back. Learn once, edit often.",
            is_input_list=True,
            search_aliases=["null text inversion", "embedding optimization", "stylediffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="exact only, with an "
                                    "image: the paper's mapping network learns from its tokens. "
                                    "Without either, scale and shift are learnt directly."),
                io.Image.Input("image", optional=True, tooltip="The picture that was inverted, for "
                               "clip_vision to look at."),
                io.Combo.Input("preset", options=["fast", "exact"], default="fast",
                               tooltip="fast: a few quasi-Newton updates of the value input, "
                               "kept as a scale and a shift. exact: the authors' networks, "
                               "schedule and early stop, to compare with; slower, and no nearer "
                               "to the picture."),
                io.Float.Input("guidance", default=7.5, min=1.0, max=30.0, step=0.1,
                               tooltip="The guidance you will sample with. Higher edits more "
                               "strongly and is harder to learn."),
                io.Int.Input("seed", default=0, min=0, max=EVERY_SEED, control_after_generate=False,
                             tooltip="exact only: starts the mapping network. The same seed "
                             "learns the same embedding."),
                io.Int.Input("inner_steps", default=100, min=1, max=1000, advanced=True,
                             tooltip="exact only: the most updates at the noisiest step; later "
                             "steps get fewer, and every step stops when it is good enough."),
                io.Float.Input("learning_rate", default=0.01, min=0.0001, max=1.0, step=0.0001,
                               round=0.00001, advanced=True, tooltip="exact only: how large an "
                               "update is. Lower it if the loss is not finite."),
                io.Float.Input("attention_weight", default=1.0, min=0.0, max=100.0, step=0.1,
                               advanced=True, tooltip="exact only: how strongly the attention "
                               "maps of the inversion are held. 0 learns a little faster and "
                               "holds only the picture."),
                io.Combo.Input("form", options=list(FORMS), default=FORMS[0], advanced=True,
                               tooltip="What is learnt: a scale and a shift of the prompt "
                               "embedding, as the authors' code does, or, as the paper writes it, "
                               "the value input itself, which edits then share."),
            ],
            outputs=[
                ValueEmbeddingSocket.Output("value_embedding", is_output_list=True,
                                            tooltip="What the value path hears at every step, for "
                                            "Sample."),
                io.LossMap.Output("loss", is_output_list=True,
                                  tooltip="Every loss on the way, for Plot Loss Graph."),
            ],
        )

    @classmethod
    def execute(cls, **lists: list[Any]) -> io.NodeOutput:
        embeddings = learn_embeddings(listed_tasks(**lists))
        return io.NodeOutput(embeddings, [loss_map(embedding) for embedding in embeddings])


class LearnPromptEmbedding(io.ComfyNode):
    """A learned prompt for every step, in the place of a value embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleDiffusionLearnPromptEmbedding",
            display_name="Learn Prompt Embedding",
            category=f"{CATEGORY}/companions",
            description="Null-text, text-embedding or negative-prompt inversion: a whole prompt "
            "embedding for every step, to compare with a value embedding. Connect it in the place "
            "of Learn Value Embedding.",
            search_aliases=["null text inversion", "text embedding inversion", "prompt inversion",
                            "negative prompt inversion", "embedding optimization",
                            "stylediffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert."),
                io.Combo.Input("learn", options=[NULL_TEXT, TEXT_EMBEDDING, NEGATIVE_PROMPT],
                               default=NULL_TEXT, tooltip="null text: the negative prompt's "
                               "embedding, which source and edits are guided away from. text "
                               "embedding: the source prompt's, which the edits only look "
                               "through. negative prompt: nothing is learnt; all are guided away "
                               "from the source prompt itself."),
                io.Float.Input("guidance", default=7.5, min=1.0, max=30.0, step=0.1,
                               tooltip="The guidance you will sample with. A null text learns "
                               "nothing at 1, where there is no guidance."),
                io.Int.Input("inner_steps", default=10, min=1, max=1000, advanced=True,
                             tooltip="The most updates at a step; a step stops when it is good "
                             "enough. More come nearer to the picture and take longer."),
                io.Float.Input("learning_rate", default=0.01, min=0.0001, max=1.0, step=0.0001,
                               round=0.00001, advanced=True, tooltip="How large an update is. "
                               "Lower it if the loss is not finite."),
            ],
            outputs=[
                ValueEmbeddingSocket.Output("value_embedding", tooltip="The learned prompt of "
                                            "every step; goes to Sample in the place of a value "
                                            "embedding."),
                io.LossMap.Output("loss", tooltip="Every loss on the way, for Plot Loss Graph."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, trajectory: Any, learn: str, guidance: float, inner_steps: int = 10,
        learning_rate: float = 0.01,
    ) -> io.NodeOutput:
        embedding = learn_prompt_embedding(
            model, trajectory, learn, guidance, inner_steps, learning_rate)
        return io.NodeOutput(embedding, loss_map(embedding))


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


NODES: list[type[io.ComfyNode]] = [LearnValueEmbedding, LearnPromptEmbedding, LoadCLIPVision]
