"""What the pack does with what nobody should do to it.

    python -m bench.abuse [--only inputs|kills|folders|interrupts|queue] [--inputs N] [--json FILE]

Random and mutated inputs through every node and both readers of files, kill -9, full, read-only and
vanishing folders, interrupts, and a long queue on the real server. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has only the thread that forked it

from . import hostile  # isort: skip  (before anything that imports comfy)

import torch

from . import breaking
from .abused_nodes import Nodes, jobs, staged

PARTS = ("inputs", "kills", "folders", "interrupts", "queue")
HANG_SECONDS = 5
GIVEN_UP_SECONDS = 60
SHARES = {"DDIMInvert": 10, "LearnValueEmbedding": 4, "LearnPromptEmbedding": 3, "Generate": 8,
          "P2PlusController": 24, "Sample": 8, "P2PlusGuider": 8, "TauSweep": 4, "Heatmaps": 6,
          "ComparisonSheet": 8, "KeepPixels": 14, "SaveInversion": 12, "LoadInversion": 14,
          "LoadCLIPVision": 3, "DemoScene": 4, "EditMetrics": 6}


class Tally:
    """Counts answers; raw errors and hangs are kept with the inputs that led to them."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.raw: dict[str, str] = {}  # by where it was raised, so that each is shown once
        self.slowest = (0.0, "")

    def attempt(self, what: str, work: Callable[[], Any]) -> Any:
        """Do it, and sort what comes of it; None where it raised."""
        begun, result = time.process_time(), None  # what else runs here costs nothing
        signal.alarm(GIVEN_UP_SECONDS)
        try:
            result = work()
            self.counts["answered"] += 1
        except Exception as error:
            own = not hostile.is_raw(error)
            self.counts["refused in own words" if own else "raw errors"] += 1
            if not own:
                place = "".join(traceback.format_tb(error.__traceback__)[-3:])
                self.raw.setdefault(place, f"{what}\n{place}{type(error).__name__}: {error}")
        finally:
            signal.alarm(0)
        seconds = time.process_time() - begun
        self.counts["hangs over 5 s"] += seconds > HANG_SECONDS
        self.slowest = max(self.slowest, (seconds, what))
        return result


def inputs(nodes: Nodes, count: int, rng: random.Random) -> dict[str, Any]:
    """Random inputs through the nodes, then mutated files through both readers, half of each."""
    drawn, tally = hostile.Inputs(rng, nodes.good()), Tally()
    signal.signal(signal.SIGALRM, _give_up)
    names = rng.choices([*SHARES], [*SHARES.values()], k=count - count // 2)
    before = None
    for i, name in enumerate(names):
        given = drawn.draw(nodes.by_name[name])
        tally.attempt(f"{name} {_shown(given)}", functools.partial(nodes.run, name, **given))
        if "validate_inputs" in vars(nodes.by_name[name]):
            _validate(nodes.by_name[name], given, tally)
        if i == len(names) // 10:
            before = _peak()
        _tick(i, names, tally)
    half = sum(not _whole(nodes, path) for path in nodes.folder.rglob("*.safetensors"))
    files = _mutated_files(nodes, count // 2, rng, drawn, tally)
    parts = len([*nodes.folder.rglob("*.part")])
    for found in tally.raw.values():
        print(found)
    return {
        "inputs": count, **{name: tally.counts[name] for name in (
            "answered", "refused in own words", "raw errors", "hangs over 5 s")},
        "half-written files": half + parts, "damaged files taken": files,
        "slowest (s)": round(tally.slowest[0], 2), "slowest": tally.slowest[1][:200],
        "peak memory (MiB)": round(_peak()), "of it since a tenth": round(_peak() - (before or 0)),
    }


def _validate(node: Any, given: dict[str, Any], tally: Tally) -> None:
    """What the host does before: it hands over what is typed as text, and None for links."""
    import inspect

    names = inspect.signature(node.validate_inputs).parameters
    typed = {k: v for k, v in given.items() if k in names and (v is None or isinstance(v, str))}
    if node.__name__ != "LoadInversion" or typed:
        tally.attempt(f"validate {node.__name__} {_shown(typed)}",
                      lambda: node.validate_inputs(**typed))


def _mutated_files(
    nodes: Nodes, count: int, rng: random.Random, drawn: hostile.Inputs, tally: Tally
) -> int:
    """Changed files through both readers; how many were taken that hold something else."""
    files, unfinished, reading = (
        sys.modules[f"{hostile.PACK}.stylediffusion.storage.{name}"]
        for name in ("inversion_file", "learning_file", "reading"))
    saved = nodes.folder / "output" / nodes.saved()[0].removesuffix(" [output]")
    begun, like, first = _begun_run(nodes, unfinished)
    place, taken = nodes.folder / "mutated.safetensors", 0
    originals = {saved: files.load(saved), begun: unfinished.load(begun, "key", like, first, 3)}
    for i in range(count):
        source = rng.choice((saved, begun))
        shutil.copy(source, place)
        how = hostile.mutated(place, rng, drawn)

        def read(source: Path = source) -> Any:
            if source == saved:
                return files.load(place)
            try:
                return unfinished.load(place, "key", like, first, 3)
            except reading.DamagedError as error:
                raise ValueError(f"the unfinished run is damaged: {error}") from error

        found = tally.attempt(f"file {source.name} {how}", read)
        if found is not None and "signed" not in how and how not in ("tensor", "metadata"):
            taken += not hostile.equal(found, originals[source])
        elif found is not None and source == saved and rng.random() < 0.3:
            given = {"model": nodes.model, "trajectory": found[0], "guidance": 0.0}
            tally.attempt(f"Sample of a file with another {how}", functools.partial(
                nodes.run, "Sample", value_embedding=found[1], **given))
        _tick(i, range(count), tally)
    place.unlink()
    return taken


def _begun_run(nodes: Nodes, unfinished: Any) -> tuple[Path, dict[str, Any], Any]:
    learning, data = (sys.modules[f"{hostile.PACK}.stylediffusion.method.{name}"]
                      for name in ("learning", "data"))
    path, first = nodes.folder / "begun.learning.safetensors", torch.randn(1, 4, 16, 16)
    table, like = torch.randn(2, 77, 64), {"rows": torch.randn(154, 64)}
    run = learning.Learnt(table, table + 1, first + 1, [data.InnerLoss(0, 0, 0.5, 0.0)], like)
    unfinished.save(path, run, "key", first)
    return path, like, first


def _whole(nodes: Nodes, path: Path) -> bool:
    """Whether a file that the pack wrote can be read again."""
    reading = sys.modules[f"{hostile.PACK}.stylediffusion.storage.reading"]
    try:
        reading.read_whole(path, lambda found: None)
    except reading.DamagedError:
        return False
    return True


def folders(nodes: Nodes) -> dict[str, Any]:
    """Learning and saving where nothing can be written; learning must end, saving must say why."""
    embedding = nodes.learn()
    places = {"full": breaking.full(), "read-only": breaking.read_only(),
              "a file in their place": breaking.blocked(nodes.folder),
              "vanishing": breaking.vanishing(nodes.folder)}
    found = {}
    for name, place in places.items():
        tally, learnt = Tally(), []
        with place:
            for _ in range(5):
                learnt.append(tally.attempt("learning", nodes.learn))
                tally.attempt("saving", lambda: nodes.save(embedding))
        same = all(one is not None and hostile.equal(one, embedding) for one in learnt)
        found[name] = {"learnt the same": same, **tally.counts}
        for raw in tally.raw.values():
            print(raw)
    return found


def _give_up(*_: Any) -> None:
    raise TimeoutError(f"nothing after {GIVEN_UP_SECONDS} s")


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _shown(given: dict[str, Any]) -> str:
    short = {k: f"{type(v).__name__}{tuple(v.shape)}{v.dtype}" if isinstance(v, torch.Tensor)
             else ascii(v)[:80] for k, v in given.items()}
    return " ".join(f"{k}={v}" for k, v in short.items())


def _tick(i: int, of: Any, tally: Tally) -> None:
    if i % 500 == 499:
        print(f"  {i + 1} of {len(of)}: {dict(tally.counts)}", file=sys.stderr, flush=True)


def main() -> None:
    """Run what was asked for, print, and write what was asked for; fails where a promise broke."""
    parser = argparse.ArgumentParser(prog="bench abuse", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--interrupts", type=int, default=100)
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every number to this file")
    chosen = parser.parse_args(hostile.host_path.own_arguments)
    rng, numbers = random.Random(chosen.seed), {}
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(1)
    for part in PARTS if chosen.only is None else (chosen.only,):
        begun = time.monotonic()
        numbers[part] = _part(part, chosen, rng)
        print(f"{part} ({time.monotonic() - begun:.0f} s)")
        for name, value in numbers[part].items():
            print(f"  {name}: {value}", flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def _part(part: str, chosen: argparse.Namespace, rng: random.Random) -> dict[str, Any]:
    if part == "queue":
        return breaking.queue(chosen.edits)
    with staged() as nodes:
        if part == "inputs":
            return inputs(nodes, chosen.inputs, rng)
        if part == "kills":
            return breaking.kills(chosen.kills, rng, nodes.learn, nodes.save,
                                  lambda path: _whole(nodes, path), nodes.folder)
        if part == "folders":
            return folders(nodes)
        return breaking.interrupts(chosen.interrupts, rng, jobs(nodes))


if __name__ == "__main__":
    main()
