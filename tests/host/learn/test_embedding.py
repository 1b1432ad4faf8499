"""Learning on the host's UNet against recorded losses, latents and gradients."""

from typing import Any

import comfy.model_patcher
import latent_preview
import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from PIL import Image
from stylediffusion_pack.stylediffusion.host.attention import fused_attention
from stylediffusion_pack.stylediffusion.host.autograd import foreign
from stylediffusion_pack.stylediffusion.host.autograd.clone import differentiable_clone
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import learner
from stylediffusion_pack.stylediffusion.host.learn import unet as host_unet
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import data
from stylediffusion_pack.stylediffusion.method.quasi_newton import QuasiNewtonSchedule
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import golden
from tests.learning_requests import request


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return golden.tensors("learning")


@pytest.fixture(scope="module")
def run(recorded: dict[str, torch.Tensor]) -> dict[str, Any]:
    """One learning run from the recorded networks, with its first gradients and its latents."""
    seen: dict[str, Any] = {"latents": [], "gradients": []}
    make = learner.make_mapping

    def recorded_start(*arguments: Any) -> Any:
        network = make(*arguments)
        network.load_state_dict({k[len("init.0."):]: v for k, v in recorded.items()
                                 if k.startswith("init.0.")})
        return network

    class Watched(torch.optim.Adam):
        def step(self, *arguments: Any, **options: Any) -> Any:
            seen["gradients"].append([p.grad.clone() for p in self.param_groups[0]["params"]])
            return super().step(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(learner, "make_mapping", recorded_start)
        patch.setattr(torch.optim, "Adam", Watched)
        patch.setattr(host_learning.HostWatch, "after_step",
                      lambda self, i, latent, noise: seen["latents"].append((latent, noise)))
        model = golden.reloadable_unet()
        levels = make_levels(4, training_alphas(model))
        cond, uncond = [(recorded["cond"], {})], [(recorded["uncond"], {})]
        samples = vp_to_host(model, recorded["ddim_latent.0"])
        inverted = inversion.run_inversion(model, samples, cond, levels)
        assert inverted.latents is not None
        latents = torch.cat([recorded[f"ddim_latent.{k}"] for k in range(5)])
        assert golden.relative(inverted.latents, latents) < 1e-5
        trajectory = data.Trajectory(
            latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
        patch.setattr(host_learning, "image_tokens", lambda clip_vision, image: image)
        seen["embedding"] = host_learning.learn_value_embedding(
            model, trajectory, "tower", recorded["img_feats"],
            request(fast=False, inner_steps=6))
    return seen


def test_losses_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    found = run["embedding"].losses
    assert len(found) == 22
    for loss, wanted in zip(found, recorded["losses"].tolist(), strict=True):
        tolerance = 1e-5 if loss.step < 2 else 1e-4
        assert loss.total == pytest.approx(wanted[2], rel=tolerance), loss


def ddim_to_the_clean_end(latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The last step written out: timestep 1 to alpha-bar of timestep 0."""
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    here, below = torch.cumprod(1 - alphas, 0)[[1, 0]].tolist()
    clean = (latent - (1 - here) ** 0.5 * noise) / here**0.5
    return below**0.5 * clean + (1 - below) ** 0.5 * noise


def test_latents_after_each_step_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor]
) -> None:
    reached = [latent for latent, _ in run["latents"][1:]]
    reached.append(ddim_to_the_clean_end(*run["latents"][-1]))
    assert len(reached) == 4
    for i, latent in enumerate(reached):
        tolerance = 1e-4 if i < 2 else 3e-3
        assert golden.relative(latent, recorded[f"latent_cur.{i}"]) < tolerance, i


@pytest.mark.parametrize("step", [0, 1])
def test_first_gradients_are_the_recorded_ones(
    run: dict[str, Any], recorded: dict[str, torch.Tensor], step: int
) -> None:
    names = golden.facts("learning")["param_order"]
    gradients = run["gradients"][6 * step]
    without_gradient = {"conv_start.bias", "conv_block.0.0.bias"}
    for name, gradient in zip(names, gradients, strict=True):
        if name not in without_gradient:
            wanted = recorded[f"grad.opt{step}.it0.{name}"]
            assert golden.relative(gradient, wanted) < 1e-4, name


def small_run(
    model: Any, fast: bool = False, form: str = "scale and shift", **settings: Any
) -> data.ValueEmbedding:
    """Two steps of learning without an image, on a small latent."""
    generator = torch.Generator().manual_seed(8)
    cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
    levels = make_levels(2, training_alphas(model))
    samples = torch.randn(1, 4, 16, 24, generator=generator)
    inverted = inversion.run_inversion(model, samples, cond, levels)
    assert inverted.latents is not None
    trajectory = data.Trajectory(
        inverted.latents, levels, "", "", cond, uncond, inverted.layers, fingerprint(model))
    chosen = request(fast, form, **{"inner_steps": 3, **settings})
    return host_learning.learn_value_embedding(model, trajectory, None, None, chosen)


def test_weights_that_cannot_be_read_again_are_learnt_through_just_the_same() -> None:
    with torch.inference_mode():
        reloadable, bare = golden.reloadable_unet(), golden.load_unet()
        assert bare.cached_patcher_init is None
        assert all(p.is_inference() for p in bare.model.parameters())
        again, copied = small_run(reloadable), small_run(bare)
    assert again.losses == copied.losses
    assert torch.equal(again.scale, copied.scale) and torch.equal(again.shift, copied.shift)


VALUE_WEIGHT = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"


def weight_change(model: Any) -> torch.Tensor:
    shape = model.get_key_patches()[VALUE_WEIGHT][0][0].shape
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(4))


def with_change_in_its_weights(*_: Any, disable_dynamic: bool = False) -> Any:
    model = golden.load_unet()
    with torch.no_grad():
        model.get_key_patches()[VALUE_WEIGHT][0][0].add_(weight_change(model))
    return model


@pytest.mark.parametrize("load", [golden.reloadable_unet, golden.load_unet])
def test_a_patched_model_is_learnt_with_its_patches(load: Any) -> None:
    with torch.inference_mode():
        patched, changed = load(), with_change_in_its_weights()
        patched.add_patches({VALUE_WEIGHT: ("diff", (weight_change(patched),))}, 1.0)
        found, wanted, plain = small_run(patched), small_run(changed), small_run(load())
    for own, same, other in zip(found.losses, wanted.losses, plain.losses, strict=True):
        assert own.total == pytest.approx(same.total, rel=1e-4)
        assert own.total != pytest.approx(other.total, rel=1e-2)


class Adapter:
    """An IP-Adapter in little: a module of its own and tokens beside the prompt's, in layers."""

    def __init__(self, inference: bool) -> None:
        with torch.inference_mode(inference):
            generator = torch.Generator().manual_seed(6)
            self.tokens = torch.randn(1, 4, 16, generator=generator)
            self.weights = {width: torch.randn(width, 16, generator=generator) / 4
                            for width in (32, 64)}
            self.mask = torch.tensor(0.5)

    def __call__(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        heard = torch.nn.functional.linear(self.tokens, self.weights[q.shape[-1]])
        heard = heard.expand(len(q), -1, -1)
        return (fused_attention(q, k, v, extra)
                + self.mask * fused_attention(q, heard, heard, extra))


@pytest.mark.parametrize("load", [golden.reloadable_unet, golden.load_unet])
def test_what_another_nodes_patch_holds_may_be_inference_tensors(load: Any) -> None:
    def run(adapter: Adapter | None) -> data.ValueEmbedding:
        with torch.inference_mode():
            model = load()
            for block, number in (("input", 1), ("middle", 0), ("output", 3)):
                if adapter is not None:
                    model.set_model_attn2_replace(adapter, block, number)
            return small_run(model)

    found, wanted, plain = run(Adapter(True)), run(Adapter(False)), run(None)
    assert found.losses == wanted.losses
    assert torch.equal(found.shift, wanted.shift)
    assert found.losses[0].total != pytest.approx(plain.losses[0].total, rel=1e-3)


def test_without_other_nodes_patches_no_operation_is_looked_at(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(foreign, "NormalTensors")
    with torch.inference_mode():
        small_run(golden.reloadable_unet(), inner_steps=1)
        patched = golden.reloadable_unet()
        patched.set_model_attn2_patch(lambda n, context, value, extra: (n, context, value))
        with pytest.raises(NameError, match="NormalTensors"):
            small_run(patched, inner_steps=1)


def test_a_partly_loaded_model_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        whole = small_run(model)
        load = comfy.model_patcher.ModelPatcher.load
        partly: list[bool] = []

        def half(self: Any, device_to: Any = None, *arguments: Any, **options: Any) -> None:
            load(self, device_to, lowvram_model_memory=self.model_size() // 2)
            partly.append(self.model.model_lowvram)

        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", half)
        found = small_run(golden.reloadable_unet())
    assert any(partly)
    assert [x.total for x in found.losses] == pytest.approx([x.total for x in whole.losses])


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


def test_learning_leaves_no_gradient_and_no_patch_on_the_users_model() -> None:
    with torch.inference_mode():
        model = golden.reloadable_unet()
        before = (dict(model.patches), dict(model.weight_wrapper_patches), fingerprint(model))
        asked = [p.requires_grad for p in model.model.parameters()]  # hosts before 0.27 do
        small_run(model)
    assert (model.patches, model.weight_wrapper_patches, fingerprint(model)) == before
    assert [p.requires_grad for p in model.model.parameters()] == asked
    assert all(p.grad is None for p in model.model.parameters())
    assert not model.model_options["transformer_options"]


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


def test_copies_on_other_devices_which_have_no_gradients_are_left_out_of_learning() -> None:
    model = golden.reloadable_unet()
    model.set_additional_models("multigpu", [golden.load_unet()])
    assert not differentiable_clone(model).get_additional_models_with_key("multigpu")
    assert len(model.get_additional_models_with_key("multigpu")) == 1


def test_the_exact_preset_learns_where_another_node_shrinks_the_first_steps() -> None:
    """Wanted maps are seen a level above the found ones: at one step only the first are shrunk."""
    with torch.inference_mode():
        shrunk = PatchModelAddDownscale.execute(
            golden.reloadable_unet(), 1, 2.0, 0.0, 0.5, True, "bilinear", "bilinear")[0]
        found = small_run(shrunk, inner_steps=1)
    assert all(loss.attention > 0 for loss in found.losses) and found.steps == 2


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
