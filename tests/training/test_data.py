"""The loop that all stages share: batches from (seed, step), checkpoints that are gone on from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.data import Budget, Training, as_matrix, hidden_weights, train

RATE = 0.05


def budget_of(folder: Path, steps: int = 4, seed: int = 3, minutes: float = 1e6) -> Budget:
    folder.mkdir(exist_ok=True)
    return Budget(folder, seed, steps, minutes)


class Stage:
    """A small network with one hidden matrix, and its distance from numbers that torch draws."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(3, 160), torch.nn.Tanh(), torch.nn.Linear(160, 32), torch.nn.Tanh(),
            torch.nn.Linear(32, 2))
        for weight in self.network.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
        self.drawn: dict[int, Tensor] = {}

    def loss_of(self, step: int) -> Tensor:
        self.drawn[step] = torch.rand(5, 3)
        torch.rand(step)  # each step draws more than the last
        return (self.network(self.drawn[step]) - torch.rand(5, 2)).square().mean()

    def training(self, budget: Budget, cooling_start: int = 1) -> Training:
        return Training("stage", budget, {"network": self.network}, RATE, cooling_start)

    def train(self, budget: Budget) -> bool:
        return train("stage", budget, {"network": self.network}, RATE, self.loss_of)


def held(folder: Path, name: str = "stage") -> dict[str, Tensor]:
    """A checkpoint: parameters, their averages, and both optimizers' moments."""
    return load_file(folder / f"{name}.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    whole, late = Stage(), Stage()
    whole.train(budget_of(tmp_path / "whole"))
    alone = late.training(budget_of(tmp_path / "late"))
    alone.step = 2
    torch.rand(7)
    alone.update(late.loss_of)
    other = Stage()
    other.train(budget_of(tmp_path / "other", seed=4))
    assert sorted(whole.drawn) == [0, 1, 2, 3]
    for step, found in whole.drawn.items():
        wanted = torch.rand(
            5, 3, generator=torch.Generator().manual_seed(3 * 1_000_003 + step))
        assert torch.equal(found, wanted) and not torch.equal(found, other.drawn[step])
    assert torch.equal(late.drawn[2], whole.drawn[2])


def test_two_steps_and_two_more_from_the_checkpoint_are_four(tmp_path: Path) -> None:
    whole = Stage()
    assert whole.train(budget_of(tmp_path / "whole"))
    halves = budget_of(tmp_path / "halves")
    for begun in (0, 2):
        stage = Stage()
        part = stage.training(halves)
        assert part.step == begun
        for _ in range(2):
            part.update(stage.loss_of)
        part.save()
    found = held(tmp_path / "halves")
    assert same(found, held(tmp_path / "whole"))
    assert {key.split(".")[0] for key in found} == {"model", "ema", "adam", "muon"}
    assert not torch.equal(found["ema.network.0.weight"], found["model.network.0.weight"])


def test_more_steps_go_on_from_the_start_of_the_cool_down(tmp_path: Path) -> None:
    """Seventeen of twenty steps cool: three of twenty, and six of forty, are before them."""
    assert Stage().train(budget_of(tmp_path / "longer", 20))
    longer, whole = Stage(), Stage()
    assert longer.train(budget_of(tmp_path / "longer", 40))
    assert sorted(longer.drawn) == list(range(3, 40))
    assert whole.train(budget_of(tmp_path / "whole", 40))
    assert same(held(tmp_path / "longer"), held(tmp_path / "whole"))


def test_a_run_whose_time_is_up_is_not_done_and_is_finished_by_the_next(tmp_path: Path) -> None:
    short, rest = Stage(), Stage()
    assert not short.train(budget_of(tmp_path, minutes=0))
    assert short.drawn == {} and (tmp_path / "stage.safetensors").exists()
    assert rest.train(budget_of(tmp_path)) and len(rest.drawn) == 4
    again = Stage()
    assert again.train(budget_of(tmp_path)) and again.drawn == {}


@pytest.mark.parametrize(("step", "steps", "share"), [
    (0, 2000, 1 / 200), (99, 2000, 0.5), (199, 2000, 1.0), (300, 2000, 1.0),
    (1150, 2000, 0.5), (1999, 2000, 1 / 1700)])
def test_the_rate_warms_up_over_200_steps_and_cools_to_nothing_from_a_seventh_on(
    tmp_path: Path, step: int, steps: int, share: float
) -> None:
    stage = Stage()
    run = stage.training(budget_of(tmp_path, steps), round(steps * 0.15))
    run.step = step
    run.update(stage.loss_of)
    rates = [group["lr"] for o in run.optimizers.values() for group in o.param_groups]
    assert rates == [pytest.approx(RATE * share)] * 2


def test_muon_moves_the_hidden_matrix_and_adam_the_rest(tmp_path: Path) -> None:
    """Adam's first step is the rate in every number, whatever the gradient. Muon's has the same
    length (0.5 to 1.5 rates, times 0.2 and the root of its longer side) in every direction that
    the gradient of five rows clearly has."""
    stage = Stage()
    before = {name: p.detach().clone() for name, p in stage.network.named_parameters()}
    stage.training(budget_of(tmp_path)).update(stage.loss_of)
    rate = RATE / 200
    for name, parameter in stage.network.named_parameters():
        moved = parameter.detach() - before[name] * (1 - 0.01 * rate)
        if name == "2.weight":
            sizes = torch.linalg.svdvals(moved)[:3] / (rate * 0.2 * 160**0.5)
            assert float(sizes.min()) > 0.5 and float(sizes.max()) < 1.5
        else:
            torch.testing.assert_close(moved.abs(), torch.full_like(moved, rate), rtol=1e-2,
                                       atol=1e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [1, 3])
def test_a_weights_matrix_is_the_weight_itself_in_either_layout(
    layout: torch.memory_format, side: int
) -> None:
    generator = torch.Generator().manual_seed(side)
    drawn, other = torch.rand(2, 32, 48, side, side, generator=generator)
    weight = drawn.contiguous(memory_format=layout)
    matrix, beside = as_matrix(weight, weight), as_matrix(other, weight)
    assert matrix.shape == beside.shape == (32, 48 * side * side)
    assert float((matrix * beside).sum()) == pytest.approx(float((weight * other).sum()), rel=1e-3)
    matrix.zero_()
    assert not weight.any()


def test_tables_and_layers_next_to_pixels_are_not_hidden() -> None:
    module = torch.nn.ModuleDict({
        "table": torch.nn.Embedding(64, 64), "first": torch.nn.Conv2d(3, 64, 3),
        "norm": torch.nn.GroupNorm(8, 64), "hidden": torch.nn.Conv2d(64, 64, 3),
        "wide": torch.nn.Linear(64, 32), "last": torch.nn.Linear(64, 4)})
    found = hidden_weights(module)
    assert [n for n, p in module.named_parameters() if any(p is f for f in found)] == [
        "hidden.weight", "wide.weight"]


def test_late_in_a_run_the_average_takes_a_thousandth_of_every_step(tmp_path: Path) -> None:
    stage = Stage()
    run = stage.training(budget_of(tmp_path, 40_000))
    run.step = 19_999
    old = [p.clone() for p in run.average.parameters()]
    run.update(stage.loss_of)
    for before, new, found in zip(
            old, run.modules.parameters(), run.average.parameters(), strict=True):
        torch.testing.assert_close(
            found, 0.999 * before + 0.001 * new.detach(), rtol=0, atol=1e-6)


def test_a_stage_that_stopped_before_it_cooled_goes_on_with_more_steps(tmp_path: Path) -> None:
    stage = Stage()
    run = stage.training(budget_of(tmp_path, 20), 3)
    run.update(stage.loss_of)
    run.update(stage.loss_of)
    run.save()
    assert Stage().training(budget_of(tmp_path, 40), 6).step == 2


def test_averages_follow_by_what_is_left_of_the_decay(tmp_path: Path) -> None:
    stage = Stage()
    run = stage.training(budget_of(tmp_path))
    wanted = [p.detach().clone() for p in stage.network.parameters()]
    for done in (1, 2):
        run.update(stage.loss_of)
        decay = (done + 1) / (done + 10)
        for average, parameter in zip(wanted, stage.network.parameters(), strict=True):
            average.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
    for found, average in zip(run.average.parameters(), wanted, strict=True):
        torch.testing.assert_close(found, average)


def test_gradients_are_clipped_to_a_norm_of_one(tmp_path: Path) -> None:
    seen: list[float] = []

    def steep(loss_of: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
        return lambda step: 1e4 * loss_of(step)

    stage = Stage()
    run = stage.training(budget_of(tmp_path))
    step = run.optimizers["adam"].step

    def noted() -> None:
        seen.append(math.sqrt(sum(float(p.grad.square().sum())  # type: ignore[union-attr]
                                  for p in stage.network.parameters())))
        step()

    run.optimizers["adam"].step = noted  # type: ignore[assignment, method-assign]
    run.update(steep(stage.loss_of))
    assert seen == [pytest.approx(1.0, rel=1e-4)]
