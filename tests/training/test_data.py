"""The loop that all stages share: batches from (seed, step), checkpoints that are gone on from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.data import Budget, Training, train

RATE = 0.05


def budget_of(folder: Path, steps: int = 4, seed: int = 3, minutes: float = 1e6) -> Budget:
    folder.mkdir(exist_ok=True)
    return Budget(folder, seed, steps, minutes)


class Stage:
    """A line with a bend, and its distance from numbers that torch draws."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
        for weight in self.network.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        self.drawn: dict[int, Tensor] = {}

    def loss_of(self, step: int) -> Tensor:
        self.drawn[step] = torch.rand(5, 3)
        torch.rand(step)  # each step draws more than the last
        return (self.network(self.drawn[step]) - torch.rand(5, 2)).square().mean()

    def training(self, budget: Budget, cooling_start: int = 3) -> Training:
        return Training("stage", budget, {"line": self.network}, RATE, cooling_start)

    def train(self, budget: Budget) -> bool:
        return train("stage", budget, {"line": self.network}, RATE, self.loss_of)


def held(folder: Path, name: str = "stage") -> dict[str, Tensor]:
    """A checkpoint: parameters, their averages, and Adam's moments."""
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
    assert any(key.startswith("adam.") for key in found)
    assert not torch.equal(found["ema.line.0.weight"], found["model.line.0.weight"])


def test_more_steps_go_on_from_the_start_of_the_cool_down(tmp_path: Path) -> None:
    """A quarter of the steps cools: three of four, and six of eight, are before it."""
    assert Stage().train(budget_of(tmp_path / "longer"))
    longer, whole = Stage(), Stage()
    assert longer.train(budget_of(tmp_path / "longer", 8))
    assert sorted(longer.drawn) == [3, 4, 5, 6, 7]
    assert whole.train(budget_of(tmp_path / "whole", 8))
    assert same(held(tmp_path / "longer"), held(tmp_path / "whole"))


def test_a_run_whose_time_is_up_is_not_done_and_is_finished_by_the_next(tmp_path: Path) -> None:
    short, rest = Stage(), Stage()
    assert not short.train(budget_of(tmp_path, minutes=0))
    assert short.drawn == {} and (tmp_path / "stage.safetensors").exists()
    assert rest.train(budget_of(tmp_path)) and len(rest.drawn) == 4
    again = Stage()
    assert again.train(budget_of(tmp_path)) and again.drawn == {}


@pytest.mark.parametrize(("step", "steps", "share"), [
    (0, 1000, 1 / 200), (99, 1000, 0.5), (199, 1000, 1.0), (750, 1000, 1.0),
    (875, 1000, 0.5), (999, 1000, 1 / 250)])
def test_the_rate_warms_up_over_200_steps_and_cools_over_the_last_quarter(
    tmp_path: Path, step: int, steps: int, share: float
) -> None:
    stage = Stage()
    run = stage.training(budget_of(tmp_path, steps), round(steps * 0.75))
    run.step = step
    run.update(stage.loss_of)
    (group,) = run.optimizer.param_groups
    assert group["lr"] == pytest.approx(RATE * share)


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
    step = run.optimizer.step

    def noted() -> None:
        seen.append(math.sqrt(sum(float(p.grad.square().sum())  # type: ignore[union-attr]
                                  for p in stage.network.parameters())))
        step()

    run.optimizer.step = noted  # type: ignore[assignment, method-assign]
    run.update(steep(stage.loss_of))
    assert seen == [pytest.approx(1.0, rel=1e-4)]
