"""Tau Sweep: cells as rows of one batch against the textbook and against each cell alone."""

from typing import Any

import comfy.model_patcher
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.edit import guider, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.latent_units import vp_to_host
from stylediffusion_pack.stylediffusion.host.views import tau_sweep
from stylediffusion_pack.stylediffusion.method import edit_plan, prompt_to_prompt, sweep
from stylediffusion_pack.stylediffusion.prompts import notation

from reference import textbook
from tests import golden
from tests.edits import (
    BASE,
    EDITS,
    GUIDANCE,
    NOISE,
    SCALE,
    SHIFT,
    TIMESTEPS,
    context,
    control_of,
    embedding_of,
    replaced,
    trajectory_of,
)


class PlainVae:
    """Three channels of the latent as pixels."""

    latent_channels = 4

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        return samples[:, :3].movedim(1, -1).sigmoid()


def swept(model: Any, edit: textbook.Edit, axes: tuple[sweep.Axis, sweep.Axis]) -> torch.Tensor:
    latent, _ = tau_sweep.sweep(
        Edit(model, trajectory_of(model), embedding_of(model), control_of(edit, BASE), GUIDANCE),
        PlainVae(), axes, 1)
    return latent["samples"]


def pairs(axes: tuple[sweep.Axis, sweep.Axis]) -> list[dict[str, tuple[float, float]]]:
    return [{**BASE, axes[0].tau: (one.start, one.end), axes[1].tau: (other.start, other.end)}
            for _, one in axes[0].windows for _, other in axes[1].windows]


@pytest.mark.parametrize("taus", [("tau_c", "tau_s"), ("tau_v", "tau_u")])
@pytest.mark.parametrize("name", EDITS)
def test_every_cell_is_the_textbooks_and_that_of_a_run_of_its_own(
    name: str, taus: tuple[str, str]
) -> None:
    edit, axes = EDITS[name], notation.make_axes((taus[0], "0, 0.3-0.8"), (taus[1], "0.25 1"))
    with torch.inference_mode():
        model = golden.load_unet()
        found = swept(model, edit, axes)
        for cell, windows in zip(found, pairs(axes), strict=True):
            settings = textbook.Settings(**windows, threshold=0.8, scale=SCALE, shift=SHIFT)
            alone = sampling.sample_edits(
                Edit(model, trajectory_of(model), embedding_of(model), control_of(edit, windows),
                GUIDANCE))["samples"]
            assert golden.relative(cell, alone[1]) < 1e-5, windows
            if name == "blend":
                wanted = vp_to_host(model, textbook.sample(
                    model, NOISE, context(1), context(2), [edit], settings, TIMESTEPS)[-1])
                assert golden.relative(cell, wanted[1]) < 5e-5, windows
    for i in range(1, len(found)):
        assert golden.relative(found[i], found[0]) > 1e-3, "cells that are alike prove nothing"


def test_a_vae_that_overflows_is_an_error_and_no_black_sheet() -> None:
    class Overflows(PlainVae):
        def decode(self, samples: torch.Tensor) -> torch.Tensor:
            return super().decode(samples) * torch.nan

    axes = notation.make_axes(("tau_c", "0"), ("tau_s", "0"))
    with torch.inference_mode():
        model = golden.load_unet()
        edit = Edit(model, trajectory_of(model), None, control_of(EDITS["replace"], BASE), 1.0)
        with pytest.raises(ValueError, match="what the VAE made of the latent is not finite"):
            tau_sweep.sweep(edit, Overflows(), axes, 1)


class Runs(list[int]):
    """Notes how many targets each sampling run has."""

    def __call__(self, chosen: prompt_to_prompt.Control, *more: Any) -> edit_plan.EditPlan:
        self.append(len(chosen.targets))
        return edit_plan.make_plan(chosen, *more)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    noted = Runs()
    monkeypatch.setattr(guider, "make_plan", noted)
    return noted


def test_what_does_not_fit_is_painted_in_several_runs_and_comes_out_the_same(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = notation.make_axes(("tau_c", "0, 0.6"), ("tau_s", "0, 0.5, 1"))
    with torch.inference_mode():
        model = golden.load_unet()
        at_once = swept(model, replaced(), axes)
        row = model.memory_required([1, 4, 16, 24])
        for rows in (5, 3.5, 0):
            monkeypatch.setattr(
                comfy.model_patcher.ModelPatcher, "get_free_memory",
                lambda *_, r=rows: 1.51 * r * row)
            in_parts = swept(model, replaced(), axes)
            for i, cell in enumerate(in_parts):
                assert golden.relative(cell, at_once[i]) < 1e-5
    assert runs == [6, 3, 3, 2, 2, 2, *[1] * 6], "five rows are the source and four cells"


def test_cells_of_the_same_steps_are_painted_once_and_shown_twice(runs: Runs) -> None:
    axes = notation.make_axes(("tau_s", "0, 0.5, 0.6"), ("tau_u", "0, 0.1"))
    with torch.inference_mode():
        found = swept(golden.load_unet(), replaced(), axes)
    assert runs == [2], "of four steps 0.5 and 0.6 hold two, 0.1 holds none"
    assert len(found) == 6 and not torch.equal(found[0], found[2])
    for i, j in ((0, 1), (2, 3), (2, 4), (2, 5)):
        assert torch.equal(found[i], found[j])


def test_the_sheet_has_a_heading_for_every_row_and_a_name_below_every_picture(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def sheet(*parts: Any) -> torch.Tensor:
        drawn.extend(parts)
        return torch.zeros(8, 8, 3)

    monkeypatch.setattr(tau_sweep.sheets, "sheet", sheet)
    axes = notation.make_axes(("tau_s", "0, 0.5"), ("tau_c", "0.1, 0.2, 0.3"))
    pictures = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 4, 4, 3)
    assert tau_sweep.labelled_grid("a boat", axes, pictures).shape == (1, 8, 8, 3)
    title, rows = drawn
    assert "a boat" in title and [heading for heading, _ in rows] == ["tau_s 0", "tau_s 0.5"]
    for r, (_, tiles) in enumerate(rows):
        assert [name for name, _, _ in tiles] == ["tau_c 0.1", "tau_c 0.2", "tau_c 0.3"]
        assert [float(shown[0, 0, 0]) for _, _, shown in tiles] == [3 * r, 3 * r + 1, 3 * r + 2]


def test_a_target_that_is_not_there_is_an_error_that_counts() -> None:
    with pytest.raises(ValueError, match="target is 2, but the number of targets .* is 1"):
        tau_sweep.target_at(control_of(replaced(), BASE), 2)


def test_tau_v_without_an_embedding_is_an_error_with_a_remedy() -> None:
    axes = notation.make_axes(("tau_v", "0, 1"), ("tau_c", "0"))
    with pytest.raises(ValueError, match="tau_v has no effect.*connect Learn Value Embedding"):
        tau_sweep.require_effect(axes, None)
