"""The cells of a sweep: their order, their windows, and which of them are one and the same."""

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import sweep
from stylediffusion_pack.stylediffusion.method.alignment import Alignment
from stylediffusion_pack.stylediffusion.method.prompt_to_prompt import Control, Target, Window
from stylediffusion_pack.stylediffusion.prompts import notation

SHUT = Window(0.0, 0.0)


def target(**windows: Window) -> Target:
    return Target("", "", [], Alignment(torch.eye(2), torch.ones(2)), windows=windows)


def control(*targets: Target) -> Control:
    return Control("", targets, SHUT, SHUT, SHUT, SHUT)


def test_cells_run_row_by_row_and_keep_the_targets_other_windows() -> None:
    rows, columns = notation.make_axes(("tau_s", "0, 0.5"), ("tau_c", "0.2; 0.1 - 0.6"))
    made = sweep.cells(target(tau_u=Window(0, 0.3), tau_c=Window(0, 1)), rows, columns)
    assert [(c.windows["tau_s"].end, c.windows["tau_c"]) for c in made] == [
        (0, Window(0, 0.2)), (0, Window(0.1, 0.6)), (0.5, Window(0, 0.2)), (0.5, Window(0.1, 0.6))]
    assert all(c.windows["tau_u"] == Window(0, 0.3) for c in made)
    assert (rows.labels, columns.labels) == (
        ["tau_s 0", "tau_s 0.5"], ["tau_c 0.2", "tau_c 0.1-0.6"])


def test_a_value_written_twice_is_one_row() -> None:
    rows, _ = notation.make_axes(("tau_s", "0.5, .5, 0-0.50, 0.6"), ("tau_c", "1"))
    assert rows.labels == ["tau_s 0.5", "tau_s 0.6"]


def test_cells_that_hold_the_same_steps_are_painted_once() -> None:
    made = [target(tau_s=Window(0, end)) for end in (0.31, 0.5, 0.39, 0.0, 0.5)]
    # of 10 steps int(3.1) = int(3.9) = 3, int(5) = 5, and none
    assert sweep.distinct(control(*made), 10) == ([0, 1, 3], [0, 1, 0, 2, 1])
    assert sweep.distinct(control(*made), 100) == ([0, 1, 2, 3], [0, 1, 2, 3, 1])


def test_the_same_number_rounds_otherwise_in_every_tau() -> None:
    """At .55 of 10 steps i < 5.5 is 6 steps, int(.55 * 11) is 6, int(5.5) is 5."""
    held = {tau: control(target(**{tau: Window(0, 0.55)})).held(tau, 10).sum().item()
            for tau in ("tau_v", "tau_c", "tau_s", "tau_u")}
    assert held == {"tau_v": 6, "tau_c": 6, "tau_s": 5, "tau_u": 5}


def test_a_targets_own_window_stands_in_for_the_controls() -> None:
    made = control(target(tau_c=Window(0, 1)), target())
    assert made.held("tau_c", 2).tolist() == [[True, False], [True, False]]
    first, second = made.weights(2)
    assert first.tolist() == [[[1, 1], [0, 0]]] * 2 and second.tolist() == [[[0, 0], [1, 1]]] * 2


@pytest.mark.parametrize(("rows", "columns", "message"), [
    (("tau_s", "0"), ("tau_s", "1"), "rows and columns are both tau_s; choose two different"),
    (("tau_s", " , "), ("tau_c", "1"), "no value of 'tau_s'; write some"),
    (("tau_s", "0, high"), ("tau_c", "1"), "the window 'high' of 'tau_s' is not of the form"),
    (("tau_s", "0"), ("tau_c", "0.5 1.5"), "the window '1.5' of 'tau_c' must run"),
])
def test_axes_that_are_none_are_quoted(
    rows: tuple[str, str], columns: tuple[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        notation.make_axes(rows, columns)
