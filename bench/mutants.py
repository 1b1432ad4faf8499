"""Where the tests do not bite: small changes of the method's code that none of them notices.

    python -m bench.mutants [--only FILE] [--limit N] [--seed S]

Each change is made alone, in a copy of the repository, and meets the test files that lie nearest.
What survives is either a hole in the tests or changes nothing that matters: a person has to judge.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from training.host_path import own_arguments  # isort: skip  (before anything that imports comfy)

import comfy.model_patcher  # noqa: F401 (with torch, loaded once for all that runs here)
import pytest

ROOT = Path(__file__).resolve().parents[1]
NEAREST = {
    "drawing/compositing": [], "drawing/sheets": [],
    "method/adam": ["method/learning", "method/learning_precision"],
    "method/alignment": ["prompts/words"],
    "method/data": [], "method/ddim": ["method/fixed_point"], "method/edit_plan": [],
    "method/fixed_point": [], "method/layers": ["method/data"], "method/lbfgs": [],
    "method/learning": ["method/adam", "method/fast_loss", "method/learning_precision",
                        "method/learning_together"],
    "method/local_blend": [], "method/loss_scale": [], "method/preconditioner": [],
    "method/prompt_to_prompt": ["method/edit_plan", "method/sweep"],
    "method/quasi_newton": ["method/fast_loss", "method/learning", "method/learning_precision",
                            "method/learning_together"],
    "method/schedule": [], "method/sweep": [], "method/value_embedding": [],
    "prompts/notation": ["prompts/words"],
    "prompts/positions": ["method/alignment", "prompts/words"],
    "prompts/quoting": [], "prompts/words": [],
    "storage/inversion_file": ["storage/damaged_files", "storage/hostile_files"],
    "storage/learning_file": [],
    "storage/reading": ["storage/damaged_files", "storage/hostile_files", "storage/inversion_file",
                        "storage/learning_file"],
    "storage/writing": ["storage/learning_file"],
}
"""The modules that are tried, and whose tests they meet beside their own."""
SWAPPED: dict[type[ast.AST], Any] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And,
}
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
DROPPED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise)
OWN = ("bench", "demo", "development", "reference", "stylediffusion", "tests", "training")
KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "ran too long"
Mutant = tuple[int, int, str]
"""Where in the source a change begins and ends, in bytes, and what stands there instead."""


def instead(node: ast.AST) -> Iterator[str]:
    """What a node is changed to, one change at a time."""
    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                changed: list[ast.cmpop] = [*ops[:i], SWAPPED[type(op)](), *ops[i + 1:]]
                yield ast.unparse(ast.Compare(left, changed, comparators))
        case ast.BoolOp(op, values):
            yield f"({ast.unparse(ast.BoolOp(SWAPPED[type(op)](), values))})"
            for i in range(len(values)):
                yield f"({ast.unparse(ast.BoolOp(op, values[:i] + values[i + 1:]))})"
        case ast.BinOp(left, op, right) if type(op) in SWAPPED:
            yield f"({ast.unparse(ast.BinOp(left, SWAPPED[type(op)](), right))})"
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.Constant(bool() as value):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield str(value + 1)
        case ast.Call(ast.Name(name), arguments, keywords) if name in CALLED:
            yield ast.unparse(ast.Call(ast.Name(CALLED[name]), arguments, keywords))
        case ast.Subscript(value, ast.Constant(0)):
            yield f"{ast.unparse(value)}[-1]"
        case ast.Subscript(value, ast.UnaryOp(ast.USub(), ast.Constant(1))):
            yield f"{ast.unparse(value)}[0]"
        case ast.Expr(ast.Constant()):
            return
        case _ if isinstance(node, DROPPED) and node.col_offset > 0:  # no names of a module
            yield "pass"


def inside(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, texts with values in them, whose places Python misstates, and
    zip's strict, which is there for what no test can do."""
    for name, field in ast.iter_fields(tree):
        if name not in ("annotation", "returns", "decorator_list"):
            for node in field if isinstance(field, list) else [field]:
                left_out = isinstance(node, ast.JoinedStr) or getattr(node, "arg", "") == "strict"
                if isinstance(node, ast.AST) and not left_out:
                    yield node
                    yield from inside(node)


def mutants_of(source: bytes) -> list[Mutant]:
    """Every small change of a module, in the order of its source."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in inside(ast.parse(source)):
        for text in instead(node):
            begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            found.append((begin, end, text))
    return sorted(found)


def passes(copy: Path, tests: list[str], seconds: float) -> bool | None:
    """Whether test files pass in the copy, None where they had not ended in time."""
    process = get_context("fork").Process(target=run_tests, args=(copy, tests))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode == 0


def run_tests(copy: Path, tests: list[str]) -> None:
    """In a process of its own, to which the host and torch came loaded; nothing else did."""
    for name in list(sys.modules):
        if name.split(".")[0] in OWN:
            del sys.modules[name]
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    sys.dont_write_bytecode = True  # a change may keep a file's size and second
    os.chdir(copy)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    files = [path for path in map(test_file, tests) if Path(path).is_file()]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files])
    os._exit(int(code))


def test_file(module: str) -> str:
    """The tests of a module, which mirror the rooms."""
    room, name = module.split("/")
    return f"tests/{room}/test_{name}.py"


def try_all(copy: Path, name: str, chosen: list[Mutant]) -> Counter[str]:
    """Run every change of a module against its tests and print those that are not killed."""
    path = copy / "stylediffusion" / f"{name}.py"
    source, counts = path.read_bytes(), Counter[str]()
    begun = time.monotonic()
    tests = [name, *NEAREST[name]]
    if not passes(copy, tests, 600):
        raise SystemExit(f"The tests of {name}.py do not pass as they are.")
    patience = 20 + 5 * (time.monotonic() - begun)
    for begin, end, text in chosen:
        path.write_bytes(source[:begin] + text.encode() + source[end:])
        passed = passes(copy, tests, patience)
        verdict = TIMED_OUT if passed is None else SURVIVED if passed else KILLED
        counts[verdict] += 1
        if verdict != KILLED:
            number = source.count(b"\n", 0, begin) + 1
            line = path.read_text("utf-8").splitlines()[number - 1].strip()
            print(f"{verdict}: stylediffusion/{name}.py:{number}: {line}", flush=True)
    path.write_bytes(source)
    return counts


def main() -> None:
    """Try the changes that were asked for, and print the share that was killed."""
    parser = argparse.ArgumentParser(prog="bench mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="FILE", choices=NEAREST,
                        help="one module, as 'method/ddim'")
    parser.add_argument("--limit", type=int, help="at most so many changes of each module")
    parser.add_argument("--seed", type=int, default=0, help="which ones those are")
    wanted = parser.parse_args(own_arguments)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "demo_output")
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "stylediffusion_copy"  # not "copy", a module of Python
        shutil.copytree(ROOT, copy, ignore=ignored)
        for name in [wanted.only] if wanted.only else NEAREST:
            found = mutants_of((ROOT / "stylediffusion" / f"{name}.py").read_bytes())
            if wanted.limit is not None and wanted.limit < len(found):
                found = sorted(random.Random(wanted.seed).sample(found, wanted.limit))
            counts = try_all(copy, name, found)
            share = 100 * (len(found) - counts[SURVIVED]) / max(1, len(found))
            print(f"{name}.py: {len(found)} changes, {counts[SURVIVED]} survived, "
                  f"{counts[TIMED_OUT]} ran too long: {share:.0f} % noticed", flush=True)


if __name__ == "__main__":
    main()
