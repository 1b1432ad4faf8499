"""Negative-prompt inversion: a null text that is not learnt."""

from __future__ import annotations

import torch

from ...method.data import UNCONDITIONAL, PromptEmbedding, Trajectory
from ...method.value_embedding import CHUNK_TOKENS
from ..model import ModelPatcher, fingerprint, require_compatible, warn_if_other

NEGATIVE_PROMPT = "negative prompt"


def negative_prompt_embedding(
    model: ModelPatcher, trajectory: Trajectory, guidance: float = 7.5
) -> PromptEmbedding:
    """Negative-prompt inversion (Miyake et al. 2023): every null text is the source prompt.

    Nothing is learnt. Raises ValueError for a prompt of more than one chunk of tokens, which a null
    text has no room for.
    """
    require_compatible(model, trajectory)
    identity = fingerprint(model)
    warn_if_other(model, trajectory.fingerprint, "the trajectory", identity)
    prompt = trajectory.positive[0][0].to("cpu", torch.float32)
    if prompt.shape[1] > CHUNK_TOKENS:
        raise ValueError(
            f"the prompt of this trajectory has {prompt.shape[1]} tokens, but a null text has "
            f"{CHUNK_TOKENS}; write the same prompt into negative_prompt of DDIM Invert instead, "
            "which does the same at any length")
    return PromptEmbedding(
        prompt.expand(trajectory.steps, -1, -1).clone(), UNCONDITIONAL, guidance=guidance,
        prompt=trajectory.prompt, fingerprint=identity, ends=trajectory.ends)
