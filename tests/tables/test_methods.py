"""Names of methods, and the numbers that their table is made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.comparison import columns_of, paired, table
from bench.paper import complete
from bench.paper_page import cells, latex
from edits.graphs import Entry
from edits.methods import INVERSIONS, method
from edits.rows import Row

ROW = Row("edit", Path("photo.png"), "a cat", "a dog", tau_u=0.2, tau_s=0.8)


@pytest.mark.parametrize(("name", "wanted"), [
    ("ddim", {"tau_v": 0.5, "tau_c": 0.6, "tau_s": 0.8, "tau_u": 0.2}),
    ("ddim+p2p", {"tau_v": 0.5, "tau_c": 0.6, "tau_s": 0.8, "tau_u": 0.0}),
    ("ddim+p2plus", {"tau_v": 0.5, "tau_c": 0.6, "tau_s": 0.8, "tau_u": 0.5}),
    ("ddim+tau_v=0.9,tau_u=1", {"tau_v": 0.9, "tau_c": 0.6, "tau_s": 0.8, "tau_u": 1.0}),
])
def test_a_methods_taus_go_before_the_rows_and_those_before_the_nodes(
    name: str, wanted: dict[str, float]
) -> None:
    assert Entry(ROW, method(name)).taus == wanted


def test_a_method_can_name_its_inversion() -> None:
    found = method("stylediffusion-direct+p2plus,inversion=EasyInv")
    assert (found.learning, found.exact_source, found.inversion) == ("fast", True, "EasyInv")
    assert all(method(name).inversion == "" for name in INVERSIONS)


@pytest.mark.parametrize(("name", "said"), [
    ("dim", "there is no method 'dim'; choose one of sdedit, ddim"),
    ("sdedit+p2p", "SDEdit has no attention control"),
    ("ddim+tau_u=2", "'tau_u=2' in 'ddim.tau_u=2' says nothing"),
    ("ddim+0.3", "'0.3' in"), ("ddim+p2p,", "'' in"), ("ddim+inversion=", "'inversion=' in"),
])
def test_another_name_is_refused_with_what_can_be_said(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method(name)


def line(method: str, name: str, inside: float | None, **more: Any) -> dict[str, Any]:
    return {"method": method, "name": name, "image": f"{name[0]}.png", "kind": "colour",
            "psnr_inside": inside, **more}


LINES = [line("a", "1", 10.0, unet_rows_batch=80, edits_in_batch=4), line("a", "2", 12.0),
         line("a", "3", 17.0), line("b", "1", 11.0), line("b", "2", 15.0), line("b", "3", None)]


def test_means_are_over_the_lines_that_have_a_number() -> None:
    found = table(LINES)
    assert found["a"]["psnr_inside"] == 13.0
    assert found["b"]["psnr_inside"] == 13.0
    assert found["a"]["unet_rows_edit"] == 20.0
    assert found["b"]["unet_rows_edit"] is None


def test_differences_are_those_of_the_same_edit() -> None:
    one = paired(LINES, "a")["b"]["psnr_inside"]  # +1 and +3
    assert (one.mean, one.better, one.count) == (2.0, 2, 2)
    assert one.deviation == pytest.approx(math.sqrt(2))
    assert one.error == pytest.approx(1.0)


def test_edits_of_one_picture_count_as_one_in_the_error() -> None:
    others = [line(method, f"{n // 2}{n}", value) for method, values in {
        "a": (0.0,) * 4, "b": (1.0, 3.0, 5.0, 7.0)}.items() for n, value in enumerate(values)]
    one = paired(others, "a")["b"]["psnr_inside"]
    assert (one.mean, one.count) == (4.0, 4)
    assert one.error == pytest.approx(2.0)  # of 2 and 6: a deviation of sqrt(8), over sqrt(2)
    assert paired(others[:2] + others[4:6], "a")["b"]["psnr_inside"].error is None


def test_only_edits_that_every_method_has_finished_are_compared() -> None:
    assert {one["name"] for one in complete(LINES[:5], {"a", "b"})} == {"1", "2"}


def test_the_best_of_a_column_is_marked_in_latex_too() -> None:
    lines = [line("a+p2p", "1", 10.0), line("b_c", "1", 11.0)]
    assert cells(lines, columns_of(lines), "*{}*") == [["a+p2p", "10.00"], ["b_c", "*11.00*"]]
    assert "b\\_c & \\textbf{11.00} \\\\" in latex(lines)
