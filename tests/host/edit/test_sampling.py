"""What a person sees while Sample runs."""

from typing import Any

import latent_preview
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit

from tests import golden
from tests.edits import BASE, EDITS, GUIDANCE, STEPS, control_of, embedding_of, trajectory_of


def shown(model: Any, edits: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The predicted clean latents that the host's previewer was given."""
    seen: list[torch.Tensor] = []
    trajectory = trajectory_of(model)

    def prepare(*_: Any) -> Any:
        return lambda step, x0, x, total: seen.append(x0.clone())

    with monkeypatch.context() as patch:
        patch.setattr(latent_preview, "prepare_callback", prepare)
        sampling.sample_with_masks(Edit(model, trajectory, embedding_of(model), edits, GUIDANCE))
    return seen


def test_a_model_that_overflows_is_an_error_with_the_remedies() -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        trajectory = trajectory_of(model)
        model.set_model_unet_function_wrapper(lambda apply, given: torch.nan * apply(
            given["input"], given["timestep"], **given["c"]))
        with pytest.raises(FloatingPointError, match="sampling gave values that .*--fp32-unet"):
            sampling.sample_edits(Edit(model, trajectory, None, None, 1.0))


def test_the_preview_is_of_the_first_edit_and_of_the_reconstruction_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        model = golden.load_unet()
        alone = shown(model, None, monkeypatch)
        beside = shown(model, control_of(EDITS["replace"], BASE), monkeypatch)
        unedited = sampling.sample_edits(
            Edit(model, trajectory_of(model), embedding_of(model), None, GUIDANCE))["samples"]
    assert len(alone) == len(beside) == STEPS
    assert {len(x0) for x0 in alone} == {len(x0) for x0 in beside} == {1}
    last = model.model.process_latent_in(unedited)
    assert golden.relative(alone[-1], last) < 0.05, "the last prediction is nearly the result"
    assert golden.relative(beside[-1], last) > 0.05
