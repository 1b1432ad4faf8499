"""Null-text and text-embedding inversion against recorded numbers and loops written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import training_alphas
from stylediffusion_pack.stylediffusion.method import data, schedule
from stylediffusion_pack.stylediffusion.method.data import NULL_TEXT, TEXT_EMBEDDING
from stylediffusion_pack.stylediffusion.storage import inversion_file

from tests import golden
from tests.edits import sampled, trajectory_through
from tests.learning_requests import request

every_kind = pytest.mark.parametrize("kind", [NULL_TEXT, TEXT_EMBEDDING])


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return golden.tensors("null_text")


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def trajectory(model: Any) -> data.Trajectory:
    """Three steps of a real inversion of a small latent, on the recorded prompts' model."""
    with torch.inference_mode():
        levels = schedule.make_levels(3, training_alphas(model))
        generator = torch.Generator().manual_seed(8)
        samples = torch.randn(1, 4, 16, 16, generator=generator)
        cond, uncond = (torch.randn(1, 77, 64, generator=generator) for _ in range(2))
        found = inversion.run_inversion(model, samples, [(cond, {})], levels)
        assert found.latents is not None
        return trajectory_through(model, cond, uncond, found.latents)


def learn(model: Any, trajectory: Any, kind: str, **choices: Any) -> data.PromptEmbedding:
    with torch.inference_mode():
        return host_learning.learn_prompt_embedding(model, trajectory, kind, **choices)


@pytest.fixture(scope="module")
def null_text(model: Any, recorded: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Null-text inversion as it was recorded, with the latent after every step."""
    latents = torch.cat([recorded[f"ddim_latent.{k}"] for k in range(3)])
    seen: dict[str, Any] = {"latents": []}
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep",
                      lambda self, learnt: seen["latents"].append(learnt.latent))
        walked = trajectory_through(model, recorded["cond"][:1], recorded["uncond"], latents)
        seen["embedding"] = learn(model, walked, NULL_TEXT,
                                  inner_steps=golden.facts("null_text")["inner"])
    return seen


def test_losses_are_the_recorded_ones(
    null_text: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    found = null_text["embedding"].losses
    assert [(x.step, x.inner) for x in found] == [(i, j) for i in range(2) for j in range(3)]
    assert [x.total for x in found] == pytest.approx(recorded["losses"].tolist(), rel=1e-5)


def test_the_latents_after_each_step_are_the_recorded_ones(
    null_text: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    for i, latent in enumerate(null_text["latents"]):
        assert golden.relative(latent, recorded[f"latent_cur.{i}"]) < 1e-4, i


def test_the_null_texts_are_the_recorded_ones(
    null_text: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    """As changes: Adam's first updates have the gradient's sign and hardly its size, so a gradient
    near zero may go either way."""
    before = recorded["uncond"][0]
    for i, found in enumerate(null_text["embedding"].contexts):
        wanted = recorded[f"emb.{i}"][0]
        assert golden.relative(found - before, wanted - before) < 1e-3, i


def textbook_text_embeddings(
    unet: Any, trajectory: data.Trajectory, guidance: float, inner: int
) -> tuple[list[torch.Tensor], list[float]]:
    """(c_t of every step, all losses): the loop written out, on the UNet itself."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    context = trajectory.positive[0][0].clone()
    null = trajectory.negative[0][0].clone()
    targets = trajectory.latents.clone()
    steps = len(targets) - 1
    times = [0, *(1 + 1000 // steps * k for k in range(steps))]
    found, losses, z = [], [], targets[-1:]
    for i in range(steps):
        time, below = times[steps - i], times[steps - i - 1]
        here, there = float(alphas[time]), float(alphas[below])

        def step_to(
            noise: torch.Tensor, z: torch.Tensor = z, here: float = here, there: float = there
        ) -> torch.Tensor:
            clean = (z - (1 - here) ** 0.5 * noise) / here**0.5
            return there**0.5 * clean + (1 - there) ** 0.5 * noise

        t = torch.tensor([float(time)])
        with torch.no_grad():
            plain = unet(z, t, context=null)
        context = context.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([context], lr=1e-2 * (1 - i / 100))
        for _ in range(inner):
            noise = plain + guidance * (unet(z, t, context=context) - plain)
            loss = ((step_to(noise) - targets[steps - i - 1 : steps - i]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if losses[-1] < 1e-5 + 2e-5 * i:
                break
        found.append(context.detach()[0])
        with torch.no_grad():
            z = step_to(plain + guidance * (unet(z, t, context=context) - plain))
    return found, losses


def test_text_embeddings_are_those_of_the_loop_written_out(model: Any, trajectory: Any) -> None:
    """Embeddings as changes, and more loosely, for the sign-like first updates of Adam."""
    found = learn(model, trajectory, TEXT_EMBEDDING, inner_steps=4)
    with torch.inference_mode(False), torch.enable_grad():
        unet = golden.load_unet().model.diffusion_model.requires_grad_(False)
        wanted, losses = textbook_text_embeddings(unet, trajectory, 7.5, 4)
    assert [x.total for x in found.losses] == pytest.approx(losses, rel=1e-5)
    before = trajectory.positive[0][0][0]
    for own, book in zip(found.contexts, wanted, strict=True):
        assert golden.relative(own - before, book - before) < 1e-3


@every_kind
def test_the_reconstruction_comes_nearer_than_plain_ddim(
    kind: str, model: Any, trajectory: Any
) -> None:
    learnt = learn(model, trajectory, kind, guidance=3.0, inner_steps=12, learning_rate=0.05)
    with torch.inference_mode():
        plain = sampling.sample_edits(Edit(model, trajectory, None, None, 3.0))["samples"]
        ours = sampling.sample_edits(Edit(model, trajectory, learnt, None, 0.0))["samples"]
        wanted = vp_to_host(model, trajectory.latents[:1])
    assert golden.relative(ours, wanted) < 0.9 * golden.relative(plain, wanted)


@every_kind
def test_a_loss_that_is_good_enough_ends_a_step_and_its_update_stays(
    kind: str, model: Any, trajectory: Any
) -> None:
    """On the way that guided sampling takes by itself there is nothing to learn at first."""
    with torch.inference_mode():
        way = sampled(model, trajectory, None, None)
        walked = replace(trajectory, latents=torch.cat([*reversed(way), trajectory.noise]))
    found = learn(model, walked, kind, inner_steps=3)
    first = [x.total for x in found.losses if x.step == 0]
    assert len(first) == 1 and first[0] < 1e-5
    prompt = (trajectory.negative if kind == NULL_TEXT else trajectory.positive)[0][0][0]
    assert 0 < (found.contexts[0] - prompt).abs().max() < 0.011, "one update of Adam"
    for i in (1, 2):
        totals = [x.total for x in found.losses if x.step == i]
        assert all(total >= 1e-5 + 2e-5 * i for total in totals[:-1])
        assert len(totals) == 3 or totals[-1] < 1e-5 + 2e-5 * i


@pytest.mark.parametrize("kind", [NULL_TEXT, "negative prompt", "value"])
def test_another_models_trajectory_and_a_guidance_that_teaches_nothing_are_said(
    model: Any, trajectory: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = replace(trajectory, fingerprint="0" * 16)
    if kind == "value":
        with torch.inference_mode():
            host_learning.learn_value_embedding(model, foreign, None, None, request(
                first_evaluations=1, evaluations=1, closing_evaluations=1, last_evaluations=1))
    else:
        learn(model, foreign, kind, inner_steps=1, guidance=1.0)
    assert "the trajectory was made with model 0000000000000000" in caplog.text
    assert ("a null text learns nothing" in caplog.text) == (kind == NULL_TEXT)


@every_kind
def test_a_stopped_run_goes_on_and_ends_where_it_would_have(
    kind: str, model: Any, trajectory: Any, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn(model, trajectory, kind, inner_steps=2)
    keep = host_learning.HostWatch.keep

    def stopping(self: Any, learnt: Any) -> None:
        keep(self, learnt)
        if learnt.steps == 2:
            raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep", stopping)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(model, trajectory, kind, inner_steps=2)
    other = TEXT_EMBEDDING if kind == NULL_TEXT else NULL_TEXT
    assert len(learn(model, trajectory, other, inner_steps=2).losses) == 6, "not this run's file"
    begun: list[int] = []
    after = host_learning.HostWatch.after_inner
    monkeypatch.setattr(host_learning.HostWatch, "after_inner", lambda self, loss: (
        begun.append(loss.step), after(self, loss))[1])
    resumed = learn(model, trajectory, kind, inner_steps=2)
    assert begun == [2, 2]
    torch.testing.assert_close(resumed.contexts, whole.contexts, rtol=0, atol=1e-6)
    assert not list(user_folder.iterdir())


@every_kind
def test_a_prompt_embedding_comes_back_from_a_file_to_the_last_bit(
    kind: str, model: Any, trajectory: Any, tmp_path: Path
) -> None:
    learnt, path = learn(model, trajectory, kind, inner_steps=1), tmp_path / "own.safetensors"
    inversion_file.save(path, trajectory, learnt)
    _, back = inversion_file.load(path)
    assert back is not None and torch.equal(back.contexts, learnt.contexts)
    assert torch.equal(back.ends, trajectory.latents[[0, -1]])
    assert torch.equal(learnt.ends, trajectory.latents[[0, -1]]), "sampling asks whose it is"
    own = {"contexts": learnt.contexts, "ends": learnt.ends}
    assert replace(back, **own) == learnt
