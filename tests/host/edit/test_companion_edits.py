"""Edits with null texts and text embeddings: who hears them, and what they paint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from stylediffusion_pack.stylediffusion.host.attention import with_prompt
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.learn.embedding import (
    NEGATIVE_PROMPT,
    learn_prompt_embedding,
    loss_map,
)
from stylediffusion_pack.stylediffusion.host.model import fingerprint
from stylediffusion_pack.stylediffusion.host.views import tau_sweep
from stylediffusion_pack.stylediffusion.method import alignment, data, prompt_to_prompt
from stylediffusion_pack.stylediffusion.method.data import NULL_TEXT, TEXT_EMBEDDING
from stylediffusion_pack.stylediffusion.prompts.notation import make_axes

from reference import textbook
from tests import edits, golden

COND, UNCOND = 0, 1
BRANCHES = {NULL_TEXT: UNCOND, TEXT_EMBEDDING: COND}
every_kind = pytest.mark.parametrize("kind", [NULL_TEXT, TEXT_EMBEDDING])


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.load_unet()


def test_an_edit_with_the_recorded_null_texts_follows_every_recorded_latent(model: Any) -> None:
    recorded, facts = golden.tensors("null_text"), golden.facts("null_text")
    shift = torch.cat([recorded["emb.0"], recorded["emb.1"]])
    windows = {tau: prompt_to_prompt.Window(0.0, facts[tau]) for tau in ("tau_c", "tau_s", "tau_u")}
    target = prompt_to_prompt.Target("", "", [(recorded["cond"][1:], {})],
                            alignment.Alignment(torch.eye(77), torch.ones(77)))
    wanted = prompt_to_prompt.Control("", (target,), prompt_to_prompt.Window(0.0, 0.0), **windows)
    with torch.inference_mode():
        latents = torch.cat([recorded[f"ddim_latent.{k}"] for k in range(3)])
        walked = edits.trajectory_through(
            model, recorded["cond"][:1], recorded["uncond"], latents)
        own = data.PromptEmbedding(
            shift, UNCOND, guidance=7.5, prompt="", fingerprint=fingerprint(model))
        found = edits.sampled(model, walked, own, wanted)
    assert len(found) == 2
    for i, latents in enumerate(found):
        for row in range(2):
            assert golden.relative(latents[row], recorded[f"edit_latents.{i}"][row]) < 5e-5, i


@pytest.mark.parametrize("kinds", [[1, 0], [0, 1], [1], [0]])
@pytest.mark.parametrize("chunks", [1, 2])
def test_only_the_rows_that_a_prompt_embedding_is_for_are_changed(
    kinds: list[int], chunks: int
) -> None:
    """Unconditional rows of null texts, row 0 of the conditional ones of text embeddings."""
    table = torch.randn(3, 77, 8)
    context = torch.randn(3 * len(kinds), 77 * chunks, 8)
    value, before = context + 1, context.clone()
    for step in range(3):
        for kind in (NULL_TEXT, TEXT_EMBEDDING):
            keys, values = with_prompt(
                BRANCHES[kind], table[step], context, value, kinds)
            wanted_keys, wanted_values = context.clone(), value.clone()
            for place, chunk in enumerate(kinds):
                rows = [0, 1, 2] if kind == NULL_TEXT and chunk == 1 else \
                    [0] if kind == TEXT_EMBEDDING and chunk == 0 else []
                for row in rows:
                    wanted_keys[3 * place + row] = table[step].repeat(chunks, 1)
                    wanted_values[3 * place + row] = table[step].repeat(chunks, 1)
            assert torch.equal(keys, wanted_keys) and torch.equal(values, wanted_values)
    assert torch.equal(context, before), "the prompt embedding itself is left alone"


@pytest.mark.parametrize("name", ["replace", "refine"])
@every_kind
def test_the_same_embedding_at_every_step_is_the_textbooks_edit_with_that_prompt(
    kind: str, name: str, model: Any
) -> None:
    edit, other = edits.EDITS[name], edits.context(7)
    settings = textbook.Settings(**{**edits.BASE, "tau_v": (0.0, 0.0)})
    prompts = (edits.context(1), other) if kind == NULL_TEXT else (other, edits.context(2))
    table = other.expand(edits.STEPS, -1, -1)
    with torch.inference_mode():
        walked = edits.trajectory_of(model)
        embedding = data.PromptEmbedding(
            table, BRANCHES[kind], guidance=edits.GUIDANCE, prompt="",
            fingerprint=fingerprint(model))
        found = edits.sampled(model, walked, embedding, edits.control_of(edit, edits.BASE))
        wanted = textbook.sample(model, edits.NOISE, *prompts, [edit], settings, edits.TIMESTEPS)
        without = textbook.sample(model, edits.NOISE, edits.context(1), edits.context(2), [edit],
                                  settings, edits.TIMESTEPS)
    for i in range(edits.STEPS):
        for row in range(2):
            assert golden.relative(found[i][row], wanted[i][row]) < 5e-5, (i, row)
    assert golden.relative(without[-1][0], wanted[-1][0]) > 1e-3, "the prompt must matter"


@every_kind
def test_a_sweep_over_tau_v_is_refused_where_no_value_embedding_is_heard(kind: str) -> None:
    table = torch.zeros(3, 77, 8)
    embedding = data.PromptEmbedding(
        table, BRANCHES[kind], guidance=7.5, prompt="", fingerprint="")
    axes = make_axes(("tau_v", "0, 0.5"), ("tau_c", "0, 0.5"))
    with pytest.raises(ValueError, match="tau_v has no effect without a value embedding"):
        tau_sweep.require_effect(axes, embedding)


@every_kind
def test_an_embedding_of_other_steps_is_refused_by_its_name(kind: str, model: Any) -> None:
    table = torch.zeros(5, 77, 64)
    embedding = data.PromptEmbedding(
        table, BRANCHES[kind], guidance=7.5, prompt="", fingerprint="")
    with torch.inference_mode():
        walked = edits.trajectory_of(model)
    with pytest.raises(ValueError, match=f"the {kind} was learnt over 5 steps.*4; run Learn Prom"):
        data.require_own_embedding(walked, embedding)


@pytest.mark.parametrize("guidance", [3.0, 7.5])
def test_guided_away_from_its_own_prompt_a_source_is_sampled_as_without_guidance(
    guidance: float, model: Any
) -> None:
    """Negative-prompt inversion: eps(c) + w (eps(c) - eps(c)) is eps(c), whatever w is."""
    with torch.inference_mode():
        walked = edits.trajectory_of(model)
        embedding = learn_prompt_embedding(model, walked, NEGATIVE_PROMPT, guidance)
        found = sampling.sample_edits(Edit(model, walked, embedding, None, 0.0))["samples"]
        wanted = sampling.sample_edits(Edit(model, walked, None, None, 1.0))["samples"]
        guided = sampling.sample_edits(Edit(model, walked, None, None, guidance))["samples"]
    assert embedding.guidance == guidance and not embedding.losses
    assert golden.relative(found, wanted) < 1e-5
    assert golden.relative(guided, wanted) > 1e-2, "guidance must matter"


def test_guided_away_from_the_source_prompt_is_a_negative_prompt_that_says_the_same(
    model: Any
) -> None:
    """Edits too: as if the source prompt had been written into negative_prompt."""
    control = edits.control_of(edits.EDITS["refine"], edits.BASE)
    with torch.inference_mode():
        walked = edits.trajectory_of(model)
        embedding = learn_prompt_embedding(model, walked, NEGATIVE_PROMPT, edits.GUIDANCE)
        found = edits.sampled(model, walked, embedding, control)
        same = replace(walked, negative=walked.positive)
        wanted = edits.sampled(model, same, None, control)
    for step, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert golden.relative(one, other) < 1e-5, step


def test_a_prompt_of_two_chunks_is_sent_to_the_negative_prompt(model: Any) -> None:
    with torch.inference_mode():
        walked = edits.trajectory_of(model)
    long = replace(walked, positive=[(walked.positive[0][0].repeat(1, 2, 1), {})])
    with pytest.raises(ValueError, match="has 154 tokens.*write the same prompt into negative_pro"):
        learn_prompt_embedding(model, long, NEGATIVE_PROMPT, 7.5)


def test_where_nothing_is_learnt_the_loss_graph_does_not_run(model: Any) -> None:
    with torch.inference_mode():
        embedding = learn_prompt_embedding(
            model, edits.trajectory_of(model), NEGATIVE_PROMPT, 7.5)
    assert isinstance(loss_map(embedding), ExecutionBlocker)
