"""Learn Prompt Embedding: the inversions that StyleDiffusion is compared with."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..stylediffusion.host.learn.embedding import NEGATIVE_PROMPT, learn_prompt_embedding, loss_map
from ..stylediffusion.method.data import NULL_TEXT, TEXT_EMBEDDING
from .sockets import CATEGORY, TrajectorySocket, ValueEmbeddingSocket


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


NODES: list[type[io.ComfyNode]] = [LearnPromptEmbedding]
