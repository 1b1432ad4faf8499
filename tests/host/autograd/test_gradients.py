"""Who collects gradients while a picture is learnt: M, and nobody else."""
from typing import Any

import comfy.model_management
import pytest
import torch
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host.autograd import checkpoints
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import memory
from stylediffusion_pack.stylediffusion.host.learn import unet as host_unet
from stylediffusion_pack.stylediffusion.method import data, learning

from tests import golden
from tests.learning_requests import request

SIDE = 16


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, CLIP_VISION) of the demo, made in inference mode as nodes make them."""
    with torch.inference_mode():
        return loading.load_model(), loading.load_clip(), loading.load_vision()


@pytest.fixture(scope="module")
def trajectory(parts: Any) -> data.Trajectory:
    with torch.inference_mode():
        latent = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
        return inversion.invert_latent(
            *parts[:2], {"samples": latent}, "a painting of a brown cat", "a dog", 2)


def learn(parts: Any, trajectory: Any, fast: bool = False, with_image: bool = True) -> Any:
    """Both losses, two inner steps, from the tokens of a picture where there is one."""
    chosen = request(fast, inner_steps=2, first_evaluations=2, last_evaluations=2)
    tower, image = (parts[2], torch.rand(1, 64, 64, 3)) if with_image else (None, None)
    with torch.inference_mode():
        return host_learning.learn_value_embedding(
            parts[0], trajectory, tower, image, chosen)


def leaves(loss: torch.Tensor) -> set[torch.Tensor]:
    """Everything a backward pass from a loss would leave a gradient on."""
    found, waiting, seen = set(), [loss.grad_fn], set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        waiting.extend(following for following, _ in node.next_functions)
    return found


def test_learning_runs_pytorchs_attention_whichever_the_host_chose(
    parts: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other kernels, such as sage attention's, have no gradient."""
    made: list[Any] = []
    real = host_unet.with_differentiable_attention
    monkeypatch.setattr(host_unet, "with_differentiable_attention",
                        lambda options: (made.append(real(options)), made[-1])[1])
    learn(parts, trajectory, fast=True, with_image=False)
    override = made[0]["transformer_options"]["optimized_attention_override"]
    drawn = torch.randn(3, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    q, k, v = drawn.requires_grad_()
    heads = [t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v)]
    maps = torch.softmax(heads[0] @ heads[1].transpose(-1, -2) / 2, dim=-1)
    wanted = (maps @ heads[2]).transpose(1, 2).flatten(2)
    found = override(lambda *_, **__: pytest.fail("the host's own kernel"), q, k, v, 2)
    torch.testing.assert_close(found, wanted)
    assert found.requires_grad


def test_the_seed_of_a_request_starts_the_mapping_network(parts: Any, trajectory: Any) -> None:
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))

    def shift(seed: int) -> torch.Tensor:
        with torch.inference_mode():
            return host_learning.learn_value_embedding(
                parts[0], trajectory, parts[2], picture,
                request(False, seed=seed, inner_steps=1)).shift

    one, again, other = shift(1), shift(1), shift(2)
    assert torch.equal(one, again) and golden.relative(other, one) > 1e-2


@pytest.mark.parametrize(("fast", "with_image", "rows"), [
    (True, False, 77), (False, False, 2 * 77), (False, True, None),
], ids=["fast", "free rows", "network"])
def test_a_backward_pass_reaches_the_parameters_of_m_alone(
    parts: Any, trajectory: Any, fast: bool, with_image: bool, rows: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: list[set[torch.Tensor]] = []
    losses = learning.LearningStep.latent_losses

    def watched(self: Any, *arguments: Any) -> Any:
        found = losses(self, *arguments)
        reached.append(leaves(found.sum()))
        return found

    monkeypatch.setattr(learning.LearningStep, "latent_losses", watched)
    learn(parts, trajectory, fast, with_image)
    assert len(reached) == 4
    for found in reached:
        if rows is None:  # three convolutions and a normalisation, each with weight and bias
            assert len(found) in (8, 10) and all(isinstance(t, torch.nn.Parameter) for t in found)
        else:
            assert [t.shape[0] for t in found] == [rows]


def test_after_a_whole_run_no_weight_of_unet_text_or_vision_has_a_gradient(
    parts: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clip, tower = parts
    clones: list[Any] = []
    clone = host_learning.differentiable_clone
    monkeypatch.setattr(host_learning, "differentiable_clone", lambda own: (
        clones.append(clone(own)), clones[-1])[1])
    asked = {p: p.requires_grad for p in (
        *model.model.parameters(), *clip.cond_stage_model.parameters(), *tower.model.parameters())}
    learn(parts, trajectory)
    (copied,) = clones
    copies = [*copied.model.parameters()]
    assert len(copies) > 50 and len(asked) > len(copies) + 20
    assert not any(p.requires_grad for p in copies)
    assert all(p.grad is None for p in (*copies, *asked))
    assert all(p.requires_grad == before for p, before in asked.items())


def room(parts: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch) -> memory.Estimate:
    """What learning this trajectory was estimated to need."""
    found: list[memory.Estimate] = []
    plan = memory.plan_memory
    with monkeypatch.context() as patch:
        patch.setattr(memory, "plan_memory", lambda model, others, estimate: (
            found.append(estimate), plan(model, others, estimate))[1])
        learn(parts, trajectory, with_image=False)
    return found[0]


class Checkpoints(list[int]):
    """Counts blocks that will be computed twice, and evaluations of the loss."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        checkpointed, losses = checkpoints.checkpoint, learning.LearningStep.latent_losses
        self.evaluations = 0

        def counted(*arguments: Any, **how: Any) -> Any:
            self.append(1)
            return checkpointed(*arguments, **how)

        def watched(step: Any, *arguments: Any) -> Any:
            self.evaluations += 1
            return losses(step, *arguments)

        patch.setattr(checkpoints, "checkpoint", counted)
        patch.setattr(learning.LearningStep, "latent_losses", watched)


def with_free(patch: pytest.MonkeyPatch, free: int) -> None:
    patch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: free)
    patch.setattr(memory, "require_room_for_copy", lambda model: None)


def test_checkpoints_are_chosen_by_what_is_free(
    parts: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, less, least = room(parts, trajectory, monkeypatch).needed
    assert least < less < most
    counts, found = {}, {}
    for free in (most, most - 1, less, less - 1, least):
        with monkeypatch.context() as patch:
            counted = Checkpoints(patch)
            with_free(patch, free)
            found[free] = learn(parts, trajectory, with_image=False)
            counts[free] = len(counted)
    assert counts[most] == 0
    assert 0 < counts[less] == counts[most - 1] < counts[least] == counts[less - 1]
    for tight in found.values():  # the sum over layers is taken in another order
        wanted = [loss.total for loss in found[most].losses]
        assert [loss.total for loss in tight.losses] == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(tight.scale, found[most].scale, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tight.shift, found[most].shift, rtol=1e-4, atol=1e-5)


def test_too_little_memory_is_an_error_before_a_single_step_is_learnt(
    parts: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = min(room(parts, trajectory, monkeypatch).needed)
    with monkeypatch.context() as patch:
        counted = Checkpoints(patch)
        with_free(patch, least - 1)
        with pytest.raises(MemoryError, match="GiB are free; use a smaller picture, set attention_"
                           "weight to 0, close other programs, run the model in half precision"):
            learn(parts, trajectory, with_image=False)
    assert counted.evaluations == 0
    assert learn(parts, trajectory, with_image=False).steps == 2, "the host is as before"


def test_the_negative_prompt_of_the_node_is_what_learning_is_guided_away_from(
    parts: Any, trajectory: Any
) -> None:
    with torch.inference_mode():
        latent = {"samples": trajectory.latents[:1] / parts[0].model.latent_format.scale_factor}
        other = inversion.invert_latent(*parts[:2], latent, trajectory.prompt, "", 2)
    torch.testing.assert_close(other.latents, trajectory.latents, rtol=1e-4, atol=1e-4)
    found, without = (learn(parts, way, with_image=False) for way in (trajectory, other))
    assert found.losses[0].latent != pytest.approx(without.losses[0].latent, rel=1e-2)
    assert found.losses[0].attention == pytest.approx(without.losses[0].attention, rel=1e-3)
