"""What the pack does with what nobody should do to it.

    python -m bench.abuse [--only inputs|kills|folders|interrupts|queue] [--inputs N] [--json FILE]

Random and mutated inputs through every node and both readers of files, kill -9, full, read-only and
vanishing folders, interrupts, and a long queue on the real server. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has only the thread that forked it

from . import hostile  # isort: skip  (before anything that imports comfy)

import comfy.utils
import comfy_extras.nodes_easycache
import comfy_extras.nodes_model_advanced
import folder_paths
import torch

from . import breaking

PARTS = ("inputs", "kills", "folders", "interrupts", "queue")
HANG_SECONDS = 5
GIVEN_UP_SECONDS = 60
SHARES = {"DDIMInvert": 10, "LearnValueEmbedding": 4, "LearnPromptEmbedding": 3, "Generate": 8,
          "P2PlusController": 24, "Sample": 8, "P2PlusGuider": 8, "TauSweep": 4, "Heatmaps": 6,
          "ComparisonSheet": 8, "KeepPixels": 14, "SaveInversion": 12, "LoadInversion": 14,
          "LoadCLIPVision": 3, "DemoScene": 4, "EditMetrics": 6}


class Stage:
    """The pack's nodes, good inputs for each, and folders of its own for all that is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("user", "output", "input", "temp"):
            (folder / name).mkdir()
            getattr(folder_paths, f"set_{name}_directory")(str(folder / name))
        self.pack = hostile.load_pack()
        self.nodes = {node.__name__: node for node in self._listed()}
        self.model, self.clip, self.vae, self.vision = self.run("LoadDemoModel")
        self.image, self.caption = self.run(
            "DemoScene", object="car", colour="red", place="meadow", style="painting", seed=0)
        with torch.inference_mode():
            self.latent = {"samples": self.vae.encode(self.image)}
        self.trajectory = self.invert(self.latent)

    def _listed(self) -> list[Any]:
        import asyncio

        async def listed() -> list[Any]:
            found: list[Any] = await (await self.pack.comfy_entrypoint()).get_node_list()
            return found

        return asyncio.run(listed())

    def run(self, name: str, **inputs: Any) -> tuple[Any, ...]:
        """A node as the host runs it."""
        lists = self.nodes[name].define_schema().is_input_list
        if lists:
            inputs = {k: v if isinstance(v, list) else [v] for k, v in inputs.items()}
        with torch.inference_mode():
            found: tuple[Any, ...] = self.nodes[name].execute(**inputs).result or ()
        return tuple(part[0] for part in found) if lists else found

    def invert(self, latent: Any, steps: int = 3) -> Any:
        """The trajectory of a latent under the scene's caption."""
        return self.run("DDIMInvert", model=self.model, clip=self.clip, latent=latent,
                        prompt=self.caption, steps=steps)[0]

    def learn(self, preset: str = "fast") -> Any:
        """The trajectory's embedding."""
        return self.run("LearnValueEmbedding", model=self.model, trajectory=self.trajectory,
                        preset=preset, guidance=7.5, seed=0, inner_steps=4)[0]

    def save(self, embedding: Any) -> None:
        """A numbered file in the output folder."""
        self.run("SaveInversion", trajectory=self.trajectory, value_embedding=embedding,
                 filename_prefix="abuse/cat")

    def control(self, targets: str = "a painting of a blue car in the snow") -> Any:
        """Some edits."""
        return self.run("P2PlusController", clip=self.clip, trajectory=self.trajectory,
                        targets=targets, mode="auto", tau_v=0.5, tau_c=0.6, tau_s=0.6, tau_u=0.0)[0]

    def good(self) -> dict[str, list[Any]]:
        """Values that fit, by the name or the type of an input, and others of the same type."""
        small = {"samples": self.latent["samples"][..., :9, :13].clone()}
        embedding, walked = self.learn(), [self.trajectory, self.invert(small, 2)]
        altered = hostile.altered(self.trajectory)
        sampled = self.run("Sample", model=self.model, trajectory=self.trajectory, guidance=0.0,
                           control=self.control())
        caching = comfy_extras.nodes_easycache.EasyCacheNode.execute(
            self.model, 0.2, 0.15, 0.95, False).result[0]
        (lcm,) = comfy_extras.nodes_model_advanced.ModelSamplingDiscrete().patch(
            self.model, "lcm", False)
        self.save(embedding)
        targets = [self.caption.replace("red", "blue"), self.caption + " at night",
                   f"{self.caption}\n{self.caption.replace('meadow', 'snow')}"]
        return {
            "MODEL": [self.model], "other MODEL": [hostile.overflowing(self.model), caching, lcm],
            "CLIP": [self.clip], "other CLIP": [hostile.WideCLIP(self.clip, 256)],
            "VAE": [self.vae], "CLIP_VISION": [self.vision], "other CLIP_VISION": [None],
            "LATENT": [self.latent, small, sampled[0]], "IMAGE": [self.image, self.image],
            "MASK": [sampled[1], torch.ones(1, 128, 128)], "CONTROL_NET": [None],
            "STYLEDIFFUSION_TRAJECTORY": walked, "other STYLEDIFFUSION_TRAJECTORY": altered,
            "STYLEDIFFUSION_VALUE_EMBEDDING": [embedding],
            "STYLEDIFFUSION_CONTROL": [self.control(), self.control("\n".join(targets[:2]))],
            "prompt": [self.caption, "a car"], "negative_prompt": ["", "blurry"],
            "targets": targets, "words": ["", "car", "car, red"], "steps": [1, 2, 3],
            "blend_words": ["", "car"], "emphasis": ["", "car: 1.5"], "windows": ["", "tau_c: 0.3"],
            "subtract_words": ["", "meadow"], "width": [64, 96], "height": [64, 128],
            "inner_steps": [1, 2], "target": [0, 1], "row_values": ["0, 0.5"],
            "column_values": ["0.2, 0.1-0.6"], "filename_prefix": ["abuse/cat", "a", "%year%/b"],
            "file": [*self._saved()], "blend_pooling": [1, 3], "feather": [0, 8],
        }

    def _saved(self) -> list[str]:
        return [f"{path.relative_to(self.folder / 'output')} [output]"
                for path in (self.folder / "output").rglob("*.inversion.safetensors")]


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


def inputs(stage: Stage, count: int, rng: random.Random) -> dict[str, Any]:
    """Random inputs through the nodes, then mutated files through both readers, half of each."""
    drawn, tally = hostile.Inputs(rng, stage.good()), Tally()
    signal.signal(signal.SIGALRM, _give_up)
    names = rng.choices([*SHARES], [*SHARES.values()], k=count - count // 2)
    before = None
    for i, name in enumerate(names):
        given = drawn.draw(stage.nodes[name])
        tally.attempt(f"{name} {_shown(given)}", functools.partial(stage.run, name, **given))
        if "validate_inputs" in vars(stage.nodes[name]):
            _validate(stage.nodes[name], given, tally)
        if i == len(names) // 10:
            before = _peak()
        _tick(i, names, tally)
    half = sum(not _whole(stage, path) for path in stage.folder.rglob("*.safetensors"))
    files = _mutated_files(stage, count // 2, rng, drawn, tally)
    parts = len([*stage.folder.rglob("*.part")])
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
    stage: Stage, count: int, rng: random.Random, drawn: hostile.Inputs, tally: Tally
) -> int:
    """Changed files through both readers; how many were taken that hold something else."""
    files, unfinished, reading = (
        sys.modules[f"{hostile.PACK}.stylediffusion.storage.{name}"]
        for name in ("inversion_file", "learning_file", "reading"))
    saved = stage.folder / "output" / stage._saved()[0].removesuffix(" [output]")
    begun, like, first = _begun_run(stage, unfinished)
    place, taken = stage.folder / "mutated.safetensors", 0
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
            given = {"model": stage.model, "trajectory": found[0], "guidance": 0.0}
            tally.attempt(f"Sample of a file with another {how}", functools.partial(
                stage.run, "Sample", value_embedding=found[1], **given))
        _tick(i, range(count), tally)
    place.unlink()
    return taken


def _begun_run(stage: Stage, unfinished: Any) -> tuple[Path, dict[str, Any], Any]:
    learning, data = (sys.modules[f"{hostile.PACK}.stylediffusion.method.{name}"]
                      for name in ("learning", "data"))
    path, first = stage.folder / "begun.learning.safetensors", torch.randn(1, 4, 16, 16)
    table, like = torch.randn(2, 77, 64), {"rows": torch.randn(154, 64)}
    run = learning.Learnt(table, table + 1, first + 1, [data.InnerLoss(0, 0, 0.5, 0.0)], like)
    unfinished.save(path, run, "key", first)
    return path, like, first


def _whole(stage: Stage, path: Path) -> bool:
    """Whether a file that the pack wrote can be read again."""
    reading = sys.modules[f"{hostile.PACK}.stylediffusion.storage.reading"]
    try:
        reading.read_whole(path, lambda found: None)
    except reading.DamagedError:
        return False
    return True


def folders(stage: Stage) -> dict[str, Any]:
    """Learning and saving where nothing can be written; learning must end, saving must say why."""
    embedding = stage.learn()
    places = {"full": breaking.full(), "read-only": breaking.read_only(),
              "a file in their place": breaking.blocked(stage.folder),
              "vanishing": breaking.vanishing(stage.folder)}
    found = {}
    for name, place in places.items():
        tally, learnt = Tally(), []
        with place:
            for _ in range(5):
                learnt.append(tally.attempt("learning", stage.learn))
                tally.attempt("saving", lambda: stage.save(embedding))
        same = all(one is not None and hostile.equal(one, embedding) for one in learnt)
        found[name] = {"learnt the same": same, **tally.counts}
        for raw in tally.raw.values():
            print(raw)
    return found


def jobs(stage: Stage) -> dict[str, Callable[[], Any]]:
    """Nodes that take a while."""
    parts = {"model": stage.model, "trajectory": stage.trajectory}
    control = stage.control()
    return {
        "invert": lambda: stage.invert(stage.latent, 8),
        "learn fast": stage.learn, "learn exact": lambda: stage.learn("exact"),
        "learn null text": lambda: stage.run(
            "LearnPromptEmbedding", learn="null text", guidance=7.5, **parts),
        "sample": lambda: stage.run("Sample", guidance=0.0, control=control, **parts),
        "sweep": lambda: stage.run(
            "TauSweep", vae=stage.vae, control=control, rows="tau_s", row_values="0, 0.4, 0.8",
            columns="tau_c", column_values="0, 0.5", target=1, guidance=0.0, **parts),
        "heatmaps": lambda: stage.run(
            "Heatmaps", clip=stage.clip, words="", target=0, steps="0-1", **parts),
        "generate": lambda: stage.run(
            "Generate", model=stage.model, clip=stage.clip, prompt=stage.caption, width=128,
            height=128, steps=8, guidance=7.5, seed=0),
    }


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


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """A stage whose folders go at the end."""
    logging.disable(logging.WARNING)
    comfy.utils.set_progress_bar_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        yield Stage(Path(folder))


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
    with staged() as stage:
        if part == "inputs":
            return inputs(stage, chosen.inputs, rng)
        if part == "kills":
            return breaking.kills(chosen.kills, rng, stage.learn, stage.save,
                                  lambda path: _whole(stage, path), stage.folder)
        if part == "folders":
            return folders(stage)
        return breaking.interrupts(chosen.interrupts, rng, jobs(stage))


if __name__ == "__main__":
    main()
