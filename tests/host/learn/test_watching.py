"""What a person sees while a picture is learnt: a bar that only grows, and the picture so far."""

from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import latent_preview
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import unfinished_run
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data, learning
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import families, golden
from tests.learning_requests import request

STEPS = 3
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.reloadable_unet()


@pytest.fixture(scope="module")
def trajectory(model: Any) -> data.Trajectory:
    with torch.inference_mode():
        cond, uncond = families.prompts("sd15", 2)
        levels = make_levels(STEPS, training_alphas(model))
        latent = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(8))
        found = inversion.run_inversion(model, vp_to_host(model, latent), cond, levels)
        assert found.latents is not None
        return data.Trajectory(
            found.latents, levels, "", "", cond, uncond, found.layers, fingerprint(model))


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Any]]:
    """Every (value, total, preview) that the page is told, however soon after the last."""
    told: list[tuple[int, int, Any]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK",
        lambda value, total, preview=None, **_: told.append((value, total, preview)))
    return told


def learn(model: Any, trajectory: Any, fast: bool, **settings: Any) -> data.ValueEmbedding:
    chosen = request(fast, **{
        "inner_steps": 4, "evaluations": 3, "first_evaluations": 3, "attention_weight": 0.0,
        **settings})
    with torch.inference_mode():
        return host_learning.learn_value_embedding(model, trajectory, None, None, chosen)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("stops", ["never", "at once"])
def test_the_bar_never_falls_and_ends_full_however_early_steps_stop(
    model: Any, trajectory: Any, bar: Any, fast: bool, stops: str
) -> None:
    at = 1e9 if stops == "at once" else 0.0
    found = learn(model, trajectory, fast, stop_loss=at, stop_loss_growth=0.0, good_enough=at,
                  good_enough_closing=at)
    values, totals = [value for value, _, _ in bar], {total for _, total, _ in bar}
    (total,) = totals
    assert values == sorted(values) and values[0] > 0 and values[-1] == total
    assert (len(found.losses) == STEPS) == (stops == "at once")
    assert len(found.losses) <= total
    if not fast:  # ceil(4 * exp(-0.1 * i)) is 4 in all three steps
        assert {4, 8, 12} <= set(values), "a step ends at its share, whether it took it or not"


def test_a_run_that_goes_on_begins_where_the_bar_was(
    model: Any, trajectory: Any, bar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = host_learning.HostWatch.keep

    def stopping(self: Any, learnt: learning.Learnt) -> None:
        keep(self, learnt)
        if learnt.steps == 2:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(host_learning.HostWatch, "keep", stopping)
        with pytest.raises(Interrupted):
            learn(model, trajectory, False)
    reached = bar[-1][0]
    del bar[:]
    learn(model, trajectory, False)
    assert bar[0][0] > reached and bar[-1][0] == bar[-1][1]


class Shown(latent_preview.LatentPreviewer):
    """A previewer of the host that keeps what it is asked to show."""

    def __init__(self) -> None:
        self.latents: list[torch.Tensor] = []

    def decode_latent_to_preview(self, x0: torch.Tensor) -> Any:
        from PIL import Image

        self.latents.append(x0.clone())
        return Image.new("RGB", (8, 8))


def test_the_preview_is_the_clean_latent_that_the_step_predicts(
    model: Any, trajectory: Any, bar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built the other way round: noise over a known picture must show that picture."""
    shown = Shown()
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: shown)
    place = unfinished_run.run_file(trajectory, None, "preview")
    watch = host_learning.HostWatch(model, trajectory, request(), place)
    picture, noise = torch.randn(2, 1, 4, 8, 16, generator=torch.Generator().manual_seed(1))
    alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
    for step, timestep in enumerate((667, 334, 1)):
        a = float(alphas[timestep])
        watch.after_step(step, a**0.5 * picture + (1 - a) ** 0.5 * noise, noise)
        torch.testing.assert_close(shown.latents[-1], picture, rtol=1e-4, atol=1e-4)
        kind, image, _ = bar[-1][2]
        assert kind == "JPEG" and image.size == (8, 8)


def test_every_step_shows_the_reconstruction_so_far(
    model: Any, trajectory: Any, bar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown()
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: shown)
    learn(model, trajectory, True)
    assert len(shown.latents) == sum(preview is not None for _, _, preview in bar) == STEPS
    distance = [golden.relative(z, trajectory.latents[:1]) for z in shown.latents]
    assert distance[-1] == min(distance) < 0.5 * distance[0]


PLACE: dict[str, Any] = {
    "fingerprint": "1" * 16, "prompt": "a cat", "negative_prompt": "",
    "positive": [(torch.ones(1, 77, 8), {})], "negative": [(torch.zeros(1, 77, 8), {})],
    "latents": torch.zeros(4, 4, 8, 8), "levels": make_levels(3, torch.linspace(
        0.999, 0.005, 1000, dtype=torch.float64)), "layers": (),
}
REQUEST = request()


def place_of(tokens: torch.Tensor | None = None, model: str = "1" * 16,
             chosen: Any = REQUEST, **other: Any) -> unfinished_run.RunFile:
    return unfinished_run.run_file(
        data.Trajectory(**{**PLACE, **other}), tokens, model, chosen)


@pytest.mark.parametrize("other", [
    {"fingerprint": "2" * 16}, {"model": "2" * 16}, {"prompt": "a dog"},
    {"negative_prompt": "a dog"}, {"positive": [(torch.full((1, 77, 8), 2.0), {})]},
    {"negative": [(torch.ones(1, 77, 8), {})]}, {"latents": torch.ones(4, 4, 8, 8)},
    {"levels": make_levels(3, torch.linspace(0.99, 0.005, 1000, dtype=torch.float64))},
    {"tokens": torch.zeros(1, 5, 8)}, {"tokens": torch.ones(1, 5, 8)},
    {"chosen": request(fast=False)}, {"chosen": request(form="plain")},
    {"chosen": request(seed=1)}, {"chosen": request(guidance=7.6)},
    {"chosen": request(attention_weight=0.9)}, {"chosen": request(evaluations=15)},
], ids=str)
def test_whatever_changes_what_is_learnt_is_another_run(other: dict[str, Any]) -> None:
    found, usual = place_of(**other), place_of()
    assert (found.key, found.path) != (usual.key, usual.path)
    assert found.path != usual.path
    if "tokens" in other:
        assert found.key != place_of(tokens=other["tokens"] + 1).key


@pytest.mark.parametrize("constant", [
    {"inner_steps": 99}, {"learning_rate": 0.011}, {"attention_weight": 0.9}], ids=str)
def test_whatever_changes_an_exact_run_is_another_run(constant: dict[str, Any]) -> None:
    exact, other = (place_of(chosen=request(fast=False, **more)) for more in ({}, constant))
    assert (exact.key, exact.path) != (other.key, other.path)


def test_the_same_again_is_the_same_run_in_the_users_folder() -> None:
    same = place_of(positive=[(torch.ones(1, 77, 8), {})], chosen=request())
    assert same == place_of()
    folder = folder_paths.get_user_directory()
    assert str(same.path).startswith(folder) and not str(same.path).startswith(
        folder_paths.get_temp_directory())
