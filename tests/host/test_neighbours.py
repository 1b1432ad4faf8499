"""Other nodes of the host in front of ours: what they change stays, and so does what we do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, apply_torch_compile_factory
from stylediffusion_pack.stylediffusion.host import control_nets
from stylediffusion_pack.stylediffusion.host.autograd.clone import differentiable_clone
from stylediffusion_pack.stylediffusion.host.edit import controller, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import generation, inversion
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.model import fingerprint
from stylediffusion_pack.stylediffusion.host.stage import Stage, on_stage
from stylediffusion_pack.stylediffusion.method import data, prompt_to_prompt

from bench import neighbours
from tests import families, golden
from tests.learning_requests import request

STEPS, GUIDANCE = 2, 4.0
SOURCE, TARGET = "a red car in a meadow", "a blue boat in a meadow"
LATENT = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(14))
TAUS = {"tau_v": (0.0, 0.5), "tau_c": (0.0, 0.6), "tau_s": (0.0, 0.6), "tau_u": (0.0, 0.0)}


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A LoRA and a textual inversion where the host looks for them."""
    folder = tmp_path_factory.mktemp("neighbours")
    neighbours.write_files(folder)
    kept = {kind: list(folder_paths.get_folder_paths(kind)) for kind in ("loras", "embeddings")}
    for kind in kept:
        folder_paths.add_model_folder_path(kind, str(folder))
    yield
    for kind, paths in kept.items():
        folder_paths.folder_names_and_paths[kind][0][:] = paths


@pytest.fixture(scope="module")
def clip(files: None) -> Any:
    with torch.inference_mode():
        return neighbours.clip()


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return neighbours.unet_model(neighbours.SMALL)


@pytest.fixture(scope="module")
def other() -> Any:
    """The same shape with other weights."""
    with torch.inference_mode():
        return neighbours.unet_model(neighbours.SMALL, 1.2)


@pytest.fixture(scope="module")
def plain(model: Any, clip: Any) -> tuple[data.Trajectory, torch.Tensor, torch.Tensor]:
    """Of the model alone: a trajectory, what the host paints, and what its guider gives on it."""
    with torch.inference_mode():
        trajectory = inverted(model, clip)
        return trajectory, by_the_host(model, trajectory), denoised(model, trajectory)


def inverted(
    model: Any, clip: Any, prompt: str = SOURCE, control_net: Any = None
) -> data.Trajectory:
    samples = vp_to_host(model, 0.5 * LATENT)
    return inversion.invert_latent(
        model, clip, {"samples": samples}, prompt, "", STEPS, control_net)


def learnt(model: Any, trajectory: data.Trajectory) -> data.ValueEmbedding:
    return host_learning.learn_value_embedding(model, trajectory, None, None, request(
        guidance=GUIDANCE, evaluations=4, first_evaluations=4, closing_evaluations=4,
        last_evaluations=4))


def rows(model: Any, trajectory: data.Trajectory, embedding: Any, control: Any,
         exact_source: bool = False) -> torch.Tensor:
    return sampling.sample_edits(
        Edit(model, trajectory, embedding, control, GUIDANCE, exact_source))["samples"]


def by_the_host(model: Any, trajectory: data.Trajectory) -> torch.Tensor:
    """Euler and the host's own guider over the trajectory's levels, without any of our nodes."""
    torch.manual_seed(0)  # as ours: some nodes draw where they tile or merge
    guider = comfy.samplers.CFGGuider(model)
    net = control_nets.control_net_of(trajectory)
    held = {} if net is None else {"control": net, "control_apply_to_uncond": False}
    guider.set_conds(*([(tensor, {**extra, **held}) for tensor, extra in conditioning]
                       for conditioning in (trajectory.positive, trajectory.negative)))
    guider.set_cfg(GUIDANCE)
    sigmas = trajectory.levels.sampling_sigmas()
    start = vp_to_host(model, trajectory.noise * (1 + sigmas[0] ** 2) ** 0.5)
    found = guider.sample(torch.zeros_like(start), start, comfy.samplers.sampler_object("euler"),
                          sigmas, disable_pbar=True, seed=0)
    # The last level is alpha-bar[0], not 1, so that what is left of the noise is scaled away.
    return vp_to_host(model, model.model.process_latent_in(found)
                             / (1 + sigmas[-1] ** 2) ** 0.5)


def edit(clip: Any, trajectory: data.Trajectory, target: str = TARGET) -> Any:
    taus = {name: prompt_to_prompt.Window(*window) for name, window in TAUS.items()}
    return controller.make_control(clip, trajectory, target, "auto", taus)


def check_edit(model: Any, trajectory: data.Trajectory, embedding: Any, control: Any,
               exact_source: bool = False) -> None:
    """An edit is another picture, and beside it the source's row is what it is alone."""
    alone = rows(model, trajectory, embedding, None, exact_source)
    source, target = rows(model, trajectory, embedding, control, exact_source).split(1)
    assert golden.relative(source, alone) < 1e-4
    assert golden.relative(target, source) > 0.05


def check_all(model: Any, clip: Any, prompt: str = SOURCE, target: str = TARGET,
              control_net: Any = None) -> None:
    """Without our effect the host's own picture; learning that learns; an edit that edits."""
    trajectory = inverted(model, clip, prompt, control_net)
    before = by_the_host(model, trajectory)
    plain = rows(model, trajectory, None, None)
    assert golden.relative(plain, before) < 1e-6
    embedding = learnt(model, trajectory)
    found = rows(model, trajectory, embedding, None)
    wanted = vp_to_host(model, trajectory.latents[:1])
    assert golden.relative(found, wanted) < 0.8 * golden.relative(plain, wanted)
    check_edit(model, trajectory, embedding, edit(clip, trajectory, target))
    assert by_the_host(model, trajectory).equal(before), "nothing of ours is left on the MODEL"


@pytest.mark.parametrize("name", {**neighbours.LEARNT_WITH, **neighbours.MERGED})
def test_it_is_in_the_inversion_in_what_is_learnt_and_in_the_edit(
    name: str, model: Any, other: Any, clip: Any, plain: Any
) -> None:
    with torch.inference_mode():
        equipped = {**neighbours.LEARNT_WITH, **neighbours.MERGED}[name](model, other)
        check_all(equipped, clip)
        trajectory, painted, _ = plain
        changed = golden.relative(by_the_host(equipped, trajectory), painted)
    assert changed > 1e-3, "the node does something"


def denoised(model: Any, trajectory: data.Trajectory) -> torch.Tensor:
    """What the host's guider gives at every step of a trajectory."""
    found: list[torch.Tensor] = []

    def work(stage: Stage) -> None:
        for step, sigma in enumerate(stage.sigmas[:-1]):
            entry = trajectory.latents[trajectory.steps - step][None].to(stage.latent_vp)
            latent_k = entry * (1 + sigma**2) ** 0.5
            found.append(stage.denoised(latent_k, sigma, stage.model_options))

    on_stage(model, trajectory.positive, trajectory.negative, trajectory.levels.sampling_sigmas(),
             vp_to_host(model, trajectory.noise), work, cfg=GUIDANCE)
    return torch.cat(found)


@pytest.mark.parametrize("name", {**neighbours.LEARNT_WITH, **neighbours.MERGED})
def test_the_copy_that_learning_works_on_is_as_the_node_made_the_model(
    name: str, model: Any, other: Any, plain: Any
) -> None:
    with torch.inference_mode():
        equipped = {**neighbours.LEARNT_WITH, **neighbours.MERGED}[name](model, other)
        trajectory, _, unequipped = plain
        wanted = denoised(equipped, trajectory)
        with torch.inference_mode(False):
            clone = differentiable_clone(equipped)
        assert golden.relative(denoised(clone, trajectory), wanted) < 1e-5
    assert golden.relative(unequipped, wanted) > 1e-3


@pytest.mark.parametrize("name", {**neighbours.LEARNT_WITH, **neighbours.MERGED})
def test_a_node_that_changes_weights_or_sampling_changes_the_fingerprint_and_others_do_not(
    name: str, model: Any, other: Any
) -> None:
    """UNetSelfAttentionMultiply and its like multiply weights."""
    with torch.inference_mode():
        equipped = {**neighbours.LEARNT_WITH, **neighbours.MERGED}[name](model, other)
        changed = fingerprint(equipped) != fingerprint(model)
        assert fingerprint(equipped) == fingerprint(equipped.clone())
    assert changed == name.startswith(("LoraLoader", "ModelSampling", "ModelMerge", "UNet"))


@pytest.mark.parametrize("name", neighbours.LEARNT_WITH)
def test_a_generated_picture_is_the_one_that_sample_paints(
    name: str, model: Any, other: Any, clip: Any, plain: Any
) -> None:
    """Nodes that draw draw the same; layers that are shrunk at first are known by their size."""
    wishes = generation.PictureSettings(SOURCE, "", 96, 64, STEPS, GUIDANCE, 5)
    with torch.inference_mode():
        equipped = neighbours.LEARNT_WITH[name](model, other)
        trajectory, latent = generation.generate(equipped, clip, wishes)
        found = rows(equipped, trajectory, None, None)
        assert golden.relative(found, latent["samples"]) < 1e-4
        assert set(trajectory.layers) == set(plain[0].layers)


@pytest.mark.parametrize("name", ["HyperTile", "TomePatchModel"])
def test_a_node_that_draws_draws_the_same_in_every_run(
    name: str, model: Any, other: Any, clip: Any
) -> None:
    found = []
    with torch.inference_mode():
        equipped = neighbours.LEARNT_WITH[name](model, other)
        for seed in (1, 2):
            torch.manual_seed(seed)
            trajectory = inverted(equipped, clip)
            found += [trajectory.latents[-1:], rows(equipped, trajectory, None, None)]
    assert found[0].equal(found[2]) and found[1].equal(found[3])


@pytest.mark.parametrize("name", neighbours.ON_CLIP)
def test_a_text_encoder_that_another_node_changed_is_used_as_it_is(
    name: str, model: Any, clip: Any
) -> None:
    with torch.inference_mode():
        equipped = neighbours.ON_CLIP[name](clip, neighbours.clip(24))
        check_all(model, equipped)
        ours, plain = (inverted(model, c) for c in (equipped, clip))
    assert golden.relative(ours.latents[-1], plain.latents[-1]) > 1e-3


@pytest.mark.parametrize("name", neighbours.CHANGE_GUIDANCE)
def test_a_node_that_changes_guidance_is_refused_by_learning_and_edits_without(
    name: str, model: Any, other: Any, clip: Any
) -> None:
    with torch.inference_mode():
        equipped = neighbours.CHANGE_GUIDANCE[name](model, other)
        trajectory = inverted(equipped, clip)
        plain = rows(equipped, trajectory, None, None)
        assert golden.relative(plain, by_the_host(equipped, trajectory)) < 1e-6
        with pytest.raises(ValueError, match="changes how this MODEL is guided .* from before"):
            learnt(equipped, trajectory)
        check_edit(equipped, trajectory, None, edit(clip, trajectory), exact_source=True)


@pytest.mark.parametrize("name", neighbours.REFUSED)
def test_another_prediction_is_refused_by_the_first_node(
    name: str, model: Any, other: Any, clip: Any
) -> None:
    named = "another node, such as ModelSamplingDiscrete"
    with torch.inference_mode(), pytest.raises(ValueError, match=named):
        inverted(neighbours.REFUSED[name](model, other), clip)


def test_a_textual_inversion_is_a_word_of_several_tokens(model: Any, clip: Any) -> None:
    word = f"embedding:{Path(neighbours.TEXTUAL_INVERSION).stem}"
    with torch.inference_mode():
        check_all(model, clip, f"a {word} car in a meadow", f"a {word} boat in a meadow")
        trajectory = inverted(model, clip, f"a {word} car in a meadow")
        plain = inverted(model, clip, "a car in a meadow")
        (target,) = edit(clip, trajectory, f"a {word} boat in a meadow").targets
    assert target.mode == "replace"
    assert golden.relative(trajectory.positive[0][0], plain.positive[0][0]) > 1e-2


def check_controlled(model: Any, clip: Any, control_net: Any) -> None:
    hint = torch.rand(1, 40, 56, 3, generator=torch.Generator().manual_seed(9))
    held = control_nets.with_hint(control_net, hint, 0.8)
    check_all(model, clip, control_net=held)
    under, plain = (inverted(model, clip, control_net=net) for net in (held, None))
    assert golden.relative(under.latents[-1], plain.latents[-1]) > 1e-3


def test_a_t2i_adapter_is_in_all_of_it(clip: Any) -> None:
    with torch.inference_mode():
        check_controlled(families.load("sd15"), clip, neighbours.t2i_adapter())


def test_a_union_control_net_is_in_all_of_it_as_the_kind_it_is_set_to(clip: Any) -> None:
    with torch.inference_mode():
        wide = neighbours.unet_model(neighbours.WIDE)
        check_controlled(wide, clip, neighbours.union_control_net())


class Unused(torch.nn.Module):
    """Compiled code that must not run: under gradients and hooks it is compiled without end."""

    def forward(self, *_: Any, **__: Any) -> None:
        pytest.fail("compiled code ran")


def test_learning_leaves_compiled_code_aside(model: Any, clip: Any) -> None:
    with torch.inference_mode():
        trajectory = inverted(model, clip)
        compiled = model.clone()
        compiled.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY,
                                      apply_torch_compile_factory({"diffusion_model": Unused()}))
        found, plain = (learnt(m, trajectory) for m in (compiled, model))
    torch.testing.assert_close(found.shift, plain.shift)


def test_two_branches_on_one_model_do_not_hear_each_other(model: Any, clip: Any) -> None:
    """In whatever order their nodes run, and with another model's run between."""
    with torch.inference_mode():
        prompts = (SOURCE, "a green tree by a lake"), (TARGET, "a dark tree by a lake")
        alone = []
        for source, target in zip(*prompts, strict=True):
            trajectory = inverted(model, clip, source)
            embedding = learnt(model, trajectory)
            alone.append(rows(model, trajectory, embedding, edit(clip, trajectory, target)))
        another = families.load("sd2")
        trajectories = [inverted(model, clip, source) for source in prompts[0]]
        inverted(another, clip)
        embeddings = [learnt(model, trajectory) for trajectory in reversed(trajectories)]
        learnt(another, inverted(another, clip))
        for i in (1, 0):
            control = edit(clip, trajectories[i], prompts[1][i])
            found = rows(model, trajectories[i], embeddings[1 - i], control)
            assert found.equal(alone[i])
