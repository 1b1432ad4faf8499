"""The masks that Sample hands out are those that its edits were blended by."""

from dataclasses import replace

import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from stylediffusion_pack.stylediffusion.host.attention import on_grid
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.method import data, local_blend, prompt_to_prompt
from stylediffusion_pack.stylediffusion.method.layers import AttentionLayer

from tests import golden
from tests.edits import BASE, EDITS, control_of, replaced, trajectory_of

PAINTED = torch.zeros(16, 24)
PAINTED[4:12, 3:9] = 1


def sampled(
    edits: prompt_to_prompt.Control | None, trajectory: data.Trajectory | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        model = golden.load_unet()
        trajectory = trajectory or trajectory_of(model)
        latent, masks = sampling.sample_with_masks(Edit(model, trajectory, None, edits, 7.5))
    return latent["samples"], masks


def blending(*targets: prompt_to_prompt.Target) -> prompt_to_prompt.Control:
    return replace(control_of(replaced(), BASE), targets=targets)


WORDS = control_of(EDITS["blend"], BASE).targets[0]
PLAIN = control_of(replaced(), BASE).targets[0]


def test_an_edit_is_the_reconstruction_where_its_mask_is_black_and_only_there() -> None:
    latents, masks = sampled(blending(WORDS, replace(PLAIN, mask=PAINTED), PLAIN))
    assert masks.shape == (3, 128, 192) and masks.dtype == torch.float32
    cells = masks[:, ::8, ::8]
    assert torch.equal(masks, cells.repeat_interleave(8, 1).repeat_interleave(8, 2))
    same = (latents[1:] == latents[:1]).all(1)
    assert torch.equal(same, cells == 0)
    assert torch.equal(cells[1], PAINTED) and (cells[2] == 1).all()
    assert 0 < cells[0].mean() < 1, "a mask that is all or nothing proves nothing"


def test_a_soft_mask_has_what_lies_between() -> None:
    soft = local_blend.Blend(threshold=0.8, softness=0.2)
    _, masks = sampled(replace(blending(WORDS), blend=soft))
    assert ((masks > 0) & (masks < 1)).any()


@pytest.mark.parametrize("edits", [
    None, blending(PLAIN, PLAIN),
    replace(blending(WORDS), blend=local_blend.Blend(start=1.0)),
], ids=["no control", "no blend", "a blend that never starts"])
def test_where_nothing_is_blended_the_mask_is_white(edits: prompt_to_prompt.Control | None) -> None:
    latents, masks = sampled(edits)
    assert masks.shape == (max(1, len(latents) - 1), 128, 192) and (masks == 1).all()


def test_a_mask_that_was_painted_for_a_picture_of_another_size_is_an_error_with_both() -> None:
    with pytest.raises(ValueError, match="for a latent of 24 x 12, .* are 24 x 16; connect"):
        sampled(blending(replace(PLAIN, mask=PAINTED[:12])))


def test_maps_of_shrunk_activations_are_interpolated_onto_the_layers_grid() -> None:
    """Half a cell lies before the first centre, and a quarter between those twice as close."""
    sums = torch.tensor([[0.0, 1, 2, 3]])

    def on(height: int, width: int) -> torch.Tensor:
        layer = AttentionLayer("input", 1, 0, height, width)
        return on_grid(sums, layer, {"activations_shape": (1, 1, 2, 2)})[0]

    assert on(2, 2).tolist() == [[0, 1], [2, 3]]
    assert on(2, 4).tolist() == [[0, 0.25, 0.75, 1], [2, 2.25, 2.75, 3]]
    assert on(4, 2).tolist() == [[0, 1], [0.5, 1.5], [1.5, 2.5], [2, 3]]


def test_words_are_found_where_another_node_shrinks_the_first_steps() -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        trajectory = trajectory_of(model)
        shrunk = PatchModelAddDownscale.execute(
            model, 1, 2.0, 0.0, 0.5, True, "bilinear", "bilinear")[0]
        edits = replace(blending(WORDS), blend=local_blend.Blend(threshold=0.97, pooling=1))
        latent, masks = sampling.sample_with_masks(Edit(shrunk, trajectory, None, edits, 7.5))
    assert torch.isfinite(latent["samples"]).all()
    assert masks.shape == (1, 128, 192) and 0 < masks.mean() < 1
