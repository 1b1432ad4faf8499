"""Many targets run in portions that fit, and come out as if they had run together."""

import math
from dataclasses import replace
from typing import Any

import comfy.model_patcher
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import guider, portions, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.method import alignment, local_blend, prompt_to_prompt

from tests import golden
from tests.edits import (
    BASE,
    EDITS,
    GUIDANCE,
    STEPS,
    context,
    control_of,
    embedding_of,
    trajectory_of,
)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return golden.load_unet()


def several(*names: str) -> prompt_to_prompt.Control:
    """One target of each name, in this order, with prompts of their own."""
    made = [replace(control_of(EDITS[name], BASE).targets[0], prompt=f"{i}",
                    conditioning=[(context(20 + i), {})]) for i, name in enumerate(names)]
    return replace(control_of(EDITS["blend"], BASE), targets=tuple(made),
                   blend=local_blend.Blend(threshold=0.95))


def of_length(chunks: int) -> prompt_to_prompt.Target:
    tokens = 77 * chunks
    return prompt_to_prompt.Target("", "", [(torch.zeros(1, tokens, 64), {})], alignment.Alignment(
        torch.zeros(77, tokens), torch.zeros(tokens)))


def room_for(rows: int, model: Any, patch: pytest.MonkeyPatch) -> None:
    row = model.memory_required([1, 4, 16, 24])
    patch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory",
                  lambda *_: (portions.MARGIN * rows + 0.01) * row)


def test_edits_and_masks_in_portions_are_those_of_one_batch_in_the_same_order(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = several("blend", "replace", "refine")
    with torch.inference_mode():
        trajectory, embedding = trajectory_of(model), embedding_of(model)
        whole, masks = sampling.sample_with_masks(
            Edit(model, trajectory, embedding, edits, GUIDANCE))
        room_for(2, model, monkeypatch)
        parts, own = sampling.sample_with_masks(Edit(model, trajectory, embedding, edits, GUIDANCE))
    assert parts["samples"].shape == whole["samples"].shape == (4, 4, 16, 24)
    for row in range(4):
        assert golden.relative(parts["samples"][row], whole["samples"][row]) < 1e-5, row
    assert own.shape == masks.shape == (3, 128, 192)
    assert (own != masks).float().mean() < 0.01, "a cell at the threshold may fall on either side"
    assert 0 < masks[0].mean() < 1 == masks[1].min()


def test_the_callback_sees_one_long_run_and_every_row_at_its_end(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    with torch.inference_mode():
        parts = sampling.sampling_parts(
            Edit(
                model, trajectory_of(model), None, several("replace", "refine", "replace"), GUIDANCE
            )
        )
        room_for(3, model, monkeypatch)
        start = parts.latent["samples"]
        parts.guider.sample(
            torch.zeros_like(start), start, parts.sampler, parts.sigmas, disable_pbar=True,
            callback=lambda step, x0, x, total: seen.append((step, len(x0), total)), seed=0)
    assert [step for step, _, _ in seen] == list(range(2 * STEPS))
    assert {total for _, _, total in seen} == {2 * STEPS}
    assert [rows for _, rows, _ in seen] == [3, 3, 3, 3, 2, 2, 2, 4]


def test_at_the_end_the_callbacks_rows_are_in_the_order_of_the_targets(model: Any) -> None:
    """As SamplerCustomAdvanced gives denoised_output; the first and the third target run first."""
    seen: list[torch.Tensor] = []
    edits = several("replace", "replace", "replace")
    longer = [replace(target, conditioning=[(target.conditioning[0][0].repeat(1, n, 1), {})],
                      alignment=alignment.Alignment(torch.eye(77).repeat(1, n) / n,
                                                    torch.ones(77 * n)))
              for target, n in zip(edits.targets, (2, 3, 2), strict=True)]
    edits = replace(edits, targets=tuple(longer), blend=None)
    with torch.inference_mode():
        trajectory = trajectory_of(model)
        assert portions.portions(model, trajectory, edits) == [[0, 2], [1]]
        parts = sampling.sampling_parts(Edit(model, trajectory, None, edits, GUIDANCE))
        start = parts.latent["samples"]
        rows = parts.guider.sample(
            torch.zeros_like(start), start, parts.sampler, parts.sigmas, disable_pbar=True,
            callback=lambda step, x0, x, total: seen.append(x0), seed=0)
    differences = torch.cdist(seen[-1].flatten(1).cpu(), rows.flatten(1))
    assert differences.argmin(1).tolist() == [0, 1, 2, 3]


def test_a_noise_mask_is_refused_for_it_would_keep_the_noise(model: Any) -> None:
    with torch.inference_mode():
        parts = sampling.sampling_parts(Edit(model, trajectory_of(model), None, None, GUIDANCE))
        start = parts.latent["samples"]
        with pytest.raises(ValueError, match="the latent has a noise mask.*to P2Plus Controller"):
            parts.guider.sample(torch.zeros_like(start), start, parts.sampler, parts.sigmas,
                                torch.ones(1, 1, 16, 24), disable_pbar=True, seed=0)


@pytest.mark.parametrize(("chunks", "wanted"), [
    ([1, 2, 4], [[0, 1, 2]]), ([4, 5, 7], [[0], [1], [2]]), ([4, 5, 2, 5, 1], [[0, 2, 4], [1, 3]]),
])
def test_prompts_whose_lengths_do_not_divide_each_other_run_apart(
    chunks: list[int], wanted: list[list[int]], model: Any
) -> None:
    made = replace(several("replace"), targets=tuple(of_length(count) for count in chunks))
    with torch.inference_mode():
        found = portions.portions(model, trajectory_of(model), made)
    assert found == wanted
    for portion in found:
        own = portions.portion_of(made, portion)
        assert own is not None and own.tokens == 77 * max(chunks[i] for i in portion)
    assert (math.lcm(*chunks) > max(chunks)) == (len(found) > 1)


def test_the_host_is_asked_for_room_for_all_targets_and_at_least_for_one(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    with torch.inference_mode():
        trajectory = trajectory_of(model)
    monkeypatch.setattr("comfy.model_management.load_models_gpu",
                        lambda models, **how: asked.update(how, models=models))
    portions.targets_at_once(model, trajectory, 3)
    all_rows, two = (1.5 * model.memory_required([rows, 4, 16, 24]) for rows in (4, 2))
    assert asked == {"models": [model], "memory_required": pytest.approx(all_rows),
                     "minimum_memory_required": pytest.approx(two)}
    assert all_rows > two


def test_a_portion_as_large_as_the_memory_is_no_larger_than_it_must_be(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(4, model, monkeypatch)
    edits = several(*["replace"] * 4)
    with torch.inference_mode():
        found = portions.portions(model, trajectory_of(model), edits)
    assert found == [[0, 1], [2, 3]], "three fit, and two and two are as many runs as three and one"


def test_nothing_of_a_run_stays_on_the_guider_but_masks_on_the_cpu(model: Any) -> None:
    with torch.inference_mode():
        own = guider.P2PlusGuider(
            Edit(model, trajectory_of(model), None, several("blend"), GUIDANCE))
        parts = sampling.sampling_parts(
            Edit(model, trajectory_of(model), None, several("blend"), GUIDANCE))
        start = parts.latent["samples"]
        own.sample(torch.zeros_like(start), start, parts.sampler, parts.sigmas, disable_pbar=True,
                   seed=0)
    assert own.run is None and own.masks is not None
    assert own.masks.device.type == "cpu" and own.masks.shape == (1, 1, 16, 24)
    tensors = [name for name, value in vars(own).items() if isinstance(value, torch.Tensor)]
    assert tensors == ["masks"]
