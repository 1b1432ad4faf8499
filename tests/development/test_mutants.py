"""The mutation run: the modules it changes and the tests these meet are there."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_module_and_every_test_file_that_is_named_exists_and_each_module_meets_one() -> None:
    (nearest,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "bench" / "mutants.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEAREST")
    for module, others in nearest.items():
        assert (ROOT / "stylediffusion" / f"{module}.py").is_file(), module
        own, *more = (ROOT / "tests" / f"{room}/test_{name}.py" for room, name in (
            named.split("/") for named in (module, *others)))
        assert all(map(Path.is_file, more)), (module, others)
        assert own.is_file() or more, module
