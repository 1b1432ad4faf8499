"""How often learning waits for a GPU: counted on a CPU, where the same operations would read it.

Of fp64 there is nothing on a device: what is read of it lies on the CPU already.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import embedding as host_learning
from stylediffusion_pack.stylediffusion.host.learn import unfinished_run
from stylediffusion_pack.stylediffusion.host.model import fingerprint, training_alphas
from stylediffusion_pack.stylediffusion.method import adam, data, lbfgs, quasi_newton
from stylediffusion_pack.stylediffusion.method.schedule import make_levels
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests import golden
from tests.learning_requests import request

STEPS = 4
READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"}


class Scalars(TorchDispatchMode):
    """Counts `float(tensor)`, `if tensor`, `torch.equal` and their like."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += func._schema.name in READS and args[0].dtype != torch.float64
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Counts copies to the CPU that are asked for, which a CPU makes without an operation."""

    count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        to_cpu = name == "to" and "cpu" in (kwargs.get("device"), *(
            given for given in args[1:] if isinstance(given, str)))
        self.count += (name in ("tolist", "cpu") or to_cpu) and args[0].dtype != torch.float64
        return func(*args, **kwargs)


class Counter:
    """Both counts, and how much they grew in every call of something."""

    def __init__(self) -> None:
        self.scalars, self.copies = Scalars(), Copies()

    @property
    def total(self) -> int:
        return self.scalars.count + self.copies.count

    def watch(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
        grown, own = [], getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            before = self.total
            found = own(*args, **kwargs)
            grown.append(self.total - before)
            return found

        patch.setattr(owner, name, run)
        return grown


@pytest.fixture(scope="module")
def model() -> Any:
    return golden.reloadable_unet()


@pytest.fixture(scope="module")
def trajectory(model: Any) -> data.Trajectory:
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(8)
        cond, uncond = ([(torch.randn(1, 77, 64, generator=generator), {})] for _ in range(2))
        levels = make_levels(STEPS, training_alphas(model))
        samples = torch.randn(1, 4, 16, 16, generator=generator)
        inverted = inversion.run_inversion(model, samples, cond, levels)
        assert inverted.latents is not None
        return data.Trajectory(inverted.latents, levels, "", "", cond, uncond,
                                    inverted.layers, fingerprint(model))


def learn(model: Any, trajectory: Any, counter: Counter, fast: bool) -> int:
    """How many evaluations a whole run took."""
    chosen = request(fast, inner_steps=4)
    with torch.inference_mode(), counter.copies, counter.scalars:
        return len(host_learning.learn_value_embedding(
            model, trajectory, None, None, chosen).losses)


def test_an_evaluation_of_the_fast_preset_reads_once_and_a_run_thrice_for_each(
    model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model's run is written more rarely than after every step."""
    counter = Counter()
    monkeypatch.setattr(unfinished_run, "SPARING", 1e9)
    inside = counter.watch(monkeypatch, quasi_newton.Evaluations, "__call__")
    evaluations = learn(model, trajectory, counter, True)
    assert evaluations == len(inside) > 2 * STEPS
    assert set(inside) == {1}
    assert evaluations < counter.total <= 3 * evaluations


def test_an_update_of_the_exact_preset_reads_once(
    model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's own count of its steps lies on the CPU."""
    counter = Counter()
    updates = counter.watch(monkeypatch, torch.optim.Adam, "step")
    inside = counter.watch(monkeypatch, adam.AdamSolver, "inner_step")
    evaluations = learn(model, trajectory, counter, False)
    assert evaluations == len(inside) == len(updates) > 2 * STEPS
    assert {all_of - own for all_of, own in zip(inside, updates, strict=True)} == {1}


@pytest.mark.parametrize(("fast", "own"), [(True, 0), (False, 1)])
def test_a_step_of_either_preset_reads_next_to_nothing_of_its_own(
    model: Any, trajectory: Any, fast: bool, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sigmas, tables and the latent stay where they are; exact looks at its last latent."""
    counter, marks = Counter(), []
    parts = [counter.watch(monkeypatch, owner, name) for owner, name in (
        (quasi_newton.Evaluations, "__call__"), (lbfgs, "_read"),
        (adam.AdamSolver, "inner_step"))]
    kept = host_learning.HostWatch.keep
    monkeypatch.setattr(unfinished_run, "SPARING", 1e9)
    monkeypatch.setattr(host_learning.HostWatch, "keep", lambda self, learnt: (
        kept(self, learnt), marks.append(counter.total - sum(map(sum, parts)))))
    learn(model, trajectory, counter, fast)
    grown = [after - before for before, after in zip(marks[1:-1], marks[2:], strict=True)]
    assert grown == [own] * (STEPS - 2)


def test_the_models_fingerprint_is_taken_once_a_run_before_anything_else(
    model: Any, trajectory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("fingerprint", "differentiable_clone"):
        own = getattr(host_learning, name)
        monkeypatch.setattr(host_learning, name, lambda model, own=own, name=name: (
            order.append(name), own(model))[1])
    from stylediffusion_pack.stylediffusion.host import model as patchers

    monkeypatch.setattr(patchers, "fingerprint", lambda model: order.append("again"))
    learn(model, trajectory, Counter(), True)
    assert order == ["fingerprint", "differentiable_clone"]


def test_a_fingerprint_reads_once(model: Any) -> None:
    counter = Counter()
    with counter.copies, counter.scalars:
        fingerprint(model)
    assert counter.total == 1
