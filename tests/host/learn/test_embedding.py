"""What each preset and form learns on the host's UNet, and when a step has learnt enough."""

from typing import Any

import latent_preview
import pytest
import torch
from PIL import Image
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import unet as host_unet
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.quasi_newton import QuasiNewtonSchedule
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import golden
from tests.host.learn.small_run import small_run
from tests.learning_requests import request


def test_the_plain_form_learns_the_value_input_itself() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        for fast in (True, False):
            found = small_run(model, fast=fast, form="plain", evaluations=3)
            assert not found.scale.any() and found.shift.any()
            first = [x.total for x in found.losses if x.step == 0]
            assert min(first[1:]) < first[0]


def test_the_loss_map_is_what_the_hosts_graph_draws() -> None:
    from comfy_extras.nodes_train import LossGraphNode

    with torch.inference_mode():
        found = small_run(golden.reloadable_unet())
    losses = host_learning.loss_map(found)
    assert losses["loss"] == [x.latent + x.attention for x in found.losses]
    assert LossGraphNode.execute(losses, "graph").ui is not None


def test_the_loss_falls_and_the_early_stop_keeps_the_update_of_a_good_enough_loss() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        eager = small_run(model, stop_loss=1e9)
        patient = small_run(model, stop_loss=0.0, stop_loss_growth=0.0)
    assert [(x.step, x.inner) for x in eager.losses] == [(0, 0), (1, 0)]
    assert not torch.equal(eager.scale[0], torch.ones(77, 64)), "the update stays"
    first = [x.total for x in patient.losses if x.step == 0]
    assert len(first) == 3 and first[-1] < first[0]


def test_the_fast_preset_is_strict_in_the_last_steps_however_few_there_are() -> None:
    chosen = QuasiNewtonSchedule(
        good_enough=1.0, good_enough_closing=0.1, closing=0.15, closing_steps=3)
    for steps, strict in ((30, 5), (21, 4), (20, 3), (4, 3), (1, 1)):
        found = [chosen.good_enough_at(i, steps) for i in range(steps)]
        assert found == [1.0] * (steps - strict) + [0.1] * strict, steps


def test_the_fast_preset_spends_least_on_the_last_step_which_can_mend_least() -> None:
    chosen = QuasiNewtonSchedule(
        first_evaluations=7, evaluations=6, closing_evaluations=5, last_evaluations=2,
        closing=0.15, closing_steps=3)
    for steps, most in ((1, [7]), (2, [7, 2]), (6, [7, 6, 6, 5, 5, 2])):
        assert [chosen.most_evaluations(i, steps) for i in range(steps)] == most


def test_the_fast_preset_sees_no_attention_loss_and_the_exact_one_does() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        fast, exact = (small_run(model, fast=fast, attention_weight=1.0) for fast in (True, False))
    assert all(loss.attention == 0 for loss in fast.losses)
    assert all(loss.attention > 0 for loss in exact.losses)


def test_the_fast_presets_first_step_gets_further_than_exact_in_half_the_updates() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        exact = small_run(model, inner_steps=8, attention_weight=0.0)
        fast = small_run(model, fast=True, evaluations=4, first_evaluations=4, good_enough=0.0,
                         good_enough_closing=0.0)
    losses = [[x.latent for x in found.losses if x.step == 0] for found in (fast, exact)]
    assert len(losses[0]) <= 4 and len(losses[1]) == 8
    assert min(losses[0]) < min(losses[1])


def test_without_attention_weight_only_the_latent_counts() -> None:
    with torch.inference_mode():
        found = small_run(golden.reloadable_unet(), attention_weight=0.0)
    assert all(x.attention == 0 and x.latent > 0 for x in found.losses)


def test_an_image_without_a_tower_is_an_error_that_names_the_socket() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        trajectory = data.Trajectory(
            torch.zeros(3, 4, 8, 8), make_levels(2, training_alphas(model)), "", "",
            [(torch.zeros(1, 77, 64), {})], [], (), fingerprint(model))
        with pytest.raises(ValueError, match="clip_vision is not connected; connect both"):
            host_learning.learn_value_embedding(
                model, trajectory, None, torch.zeros(1, 8, 8, 3), request())


def test_a_preview_that_computes_builds_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TAESD decoder's weights ask for gradients, and learning runs with gradients on."""
    decoder, graphs = torch.nn.Conv2d(4, 3, 1), []

    class Decoding(latent_preview.LatentPreviewer):
        def decode_latent_to_preview(self, x0: torch.Tensor) -> Any:
            graphs.append(decoder(x0).requires_grad)
            return Image.new("RGB", (8, 8))

    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Decoding())
    with torch.inference_mode():
        small_run(golden.reloadable_unet(), inner_steps=1)
    assert graphs == [False] * 4, "two steps up and two down"


def test_what_all_layers_hear_is_computed_once_an_evaluation(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, layers = [], []
    make = host_unet.value_patch

    def counted(scale: torch.Tensor, shift: torch.Tensor) -> Any:
        patch = make(scale, shift)

        def run(*args: Any) -> Any:
            computed.append(1)
            return patch(*args)

        return run

    def watched(scale: torch.Tensor, shift: torch.Tensor) -> Any:
        once = host_unet.computed_once(counted(scale, shift))

        def run(*args: Any) -> Any:
            layers.append(1)
            return once(*args)

        return run

    with torch.inference_mode():
        wanted = small_run(golden.reloadable_unet(), fast=True)
        monkeypatch.setattr(host_unet.HostLearningModel, "_value_patch",
                            lambda self, scale, shift: watched(scale, shift))
        found = small_run(golden.reloadable_unet(), fast=True)
        assert len(layers) == 16 * len(computed) > 0
        monkeypatch.setattr(host_unet.HostLearningModel, "_value_patch",
                            lambda self, scale, shift: make(scale, shift))
        each = small_run(golden.reloadable_unet(), fast=True)
    assert found.losses == wanted.losses
    assert [x.total for x in each.losses] == pytest.approx(
        [x.total for x in found.losses], rel=1e-3)
