"""Random and mutated inputs, and what counts as an answer to them."""

from __future__ import annotations

import json
import linecache
import math
import random
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from training import host_path  # isort: skip  # noqa: F401  (before anything that imports comfy)

import torch
from comfy_api.latest import io
from safetensors.torch import load_file, save_file

from reference.pack import PACK, ROOT

OWN_ERRORS = (ValueError, FloatingPointError, MemoryError)
SIZES = (0, 1, 2, 3, 7, 16, 17, 24)
CHANNELS = (0, 1, 2, 3, 4, 4, 4, 9, 16)
WORDS = ["a", "red", "car", "in", "the", "snow", "painting", "of", "cat,", "(car:1.2)", "(car:nan)",
         "((", "))", "\\(", "embedding:x", "tiger:", "1.5", "0-1", ";", "\n", ",", "\u0442\u0438",
         "\u732b", "\ud800", "\0", "\u200d", "e\u0301", "\U0001f431", "-", "1.", "=", ":", "nan",
         "inf", "-1", "{a|b}", "%year%", "../", "/", "a" * 300, "cat " * 90]
NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, -1, 0, 1, 0.5, 1e-300, 1e300, 2**63, 2**70,
                      -(2**64), None, "7", True, 3.0, [], 10**400]
KINDS = [torch.float32] * 6 + [torch.float16, torch.bfloat16, torch.float64, torch.int64,
                               torch.bool, torch.complex64, torch.uint8]


def is_raw(error: BaseException) -> bool:
    """Whether an error was not raised, with words of its own, by the pack."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raised = linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise ")
    own = str(ROOT) in frame.filename and raised and isinstance(error, OWN_ERRORS)
    return not own or len(str(error)) < 20 or len(str(error)) > 20_000


class Inputs:
    """Draws values for the inputs of nodes: mostly good ones, so that not all stop at one door."""

    def __init__(self, rng: random.Random, good: dict[str, list[Any]]) -> None:
        self.rng, self.good = rng, good

    def draw(self, node: Any) -> dict[str, Any]:
        """A value for every input of a node; optional ones may lack."""
        share = self.rng.choice((0.02, 0.1, 0.3))
        drawn = {}
        for wanted in node.define_schema().inputs:
            if wanted.optional and self.rng.random() < 0.5:
                continue
            bad = self.rng.random() < share
            drawn[wanted.id] = self._bad(wanted) if bad else self._fitting(wanted)
            if node.define_schema().is_input_list and self.rng.random() < 0.1:
                pair = [drawn[wanted.id], self._fitting(wanted)]
                drawn[wanted.id] = pair[self.rng.randint(0, 2) :]
        return drawn

    def _fitting(self, wanted: Any) -> Any:
        if isinstance(wanted, io.Combo.Input):
            return self.rng.choice([*(wanted.options or []), *self.good.get(wanted.id, [])] or [""])
        if isinstance(wanted, io.Boolean.Input):
            return self.rng.random() < 0.5
        kind = wanted.get_io_type()
        choices = self.good.get(wanted.id) or self.good.get(kind)
        if choices:
            return self.rng.choice(choices)
        if isinstance(wanted, io.Float.Input):
            return self.rng.uniform(wanted.min, wanted.max)
        if isinstance(wanted, io.Int.Input):
            return self.rng.randint(wanted.min, min(wanted.max, wanted.min + 40))
        return self.text()

    def _bad(self, wanted: Any) -> Any:
        if isinstance(wanted, (io.Float.Input, io.Int.Input)):
            return self.rng.choice(NUMBERS)
        if isinstance(wanted, (io.String.Input, io.Combo.Input)):
            return self.rng.choice([None, 7, self.text(), self.text(), self.text()])
        kind = wanted.get_io_type()
        made: dict[str, Callable[[], Any]] = {
            "LATENT": self._latent, "IMAGE": lambda: self._picture(4),
            "MASK": lambda: self._picture(3)}
        if kind in made and self.rng.random() < 0.8:
            return made[kind]()
        others = self.good.get(f"other {kind}", [])
        return self.rng.choice([None, {}, torch.zeros(1), *others, *others, *others])

    def text(self) -> str:
        """Some words, signs and broken characters."""
        found = self.rng.choices(WORDS, k=self.rng.choice((0, 1, 2, 5, 12, 40)))
        return self.rng.choice((" ", " ", "", "\n")).join(found)

    def tensor(self, shape: list[int]) -> torch.Tensor:
        """Random numbers of any kind, some of them not finite."""
        kind = self.rng.choice(KINDS)
        found = torch.rand(shape, dtype=torch.float32)
        if found.numel() and self.rng.random() < 0.2:
            found.view(-1)[0] = self.rng.choice((math.nan, math.inf, 1e38, -1e38))
        return found.to(kind)

    def _latent(self) -> Any:
        shape = [self.rng.choice((0, 1, 1, 2)), self.rng.choice(CHANNELS),
                 *(self.rng.choice(SIZES) for _ in range(self.rng.choice((1, 2, 2, 2, 2, 3))))]
        samples = self.rng.choice((self.tensor(shape),) * 8 + (None, "x"))
        extra = {"noise_mask": torch.ones(1, 8, 8)} if self.rng.random() < 0.1 else {}
        return {"samples": samples, **extra}

    def _picture(self, ndim: int) -> Any:
        ndim = self.rng.choice((ndim,) * 8 + (ndim - 1, ndim + 1))
        sides = [self.rng.choice((*SIZES, 64, 128)) for _ in range(2)]
        front, back = [self.rng.choice((0, 1, 1, 1, 2, 3))], [self.rng.choice((1, 2, 3, 3, 4))]
        return self.tensor([*front, *sides, *back, 2][:ndim])


def mutated(path: Path, rng: random.Random, inputs: Inputs) -> str:
    """Change a file of the pack in place; the answer says how."""
    how = rng.choice(("bits", "bits", "cut", "zeros", "doubled", "header", "tensor", "tensor",
                      "metadata", "signed tensor", "signed metadata"))
    content = bytearray(path.read_bytes())
    if how in ("tensor", "metadata", "signed tensor", "signed metadata"):
        _rewritten(path, how, rng, inputs)
        return how
    place = rng.randrange(len(content))
    if how == "bits":
        for _ in range(rng.choice((1, 1, 8))):
            anywhere = rng.choice((len(content), 2000))
            content[rng.randrange(anywhere)] ^= rng.randint(1, 255)
    elif how == "cut":
        del content[place:]
    elif how == "zeros":
        content[place : place + rng.randint(1, 4096)] = b""
    elif how == "doubled":
        content[place:place] = content[place : place + 512]
    else:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        _change_json(header, rng)
        packed = json.dumps(header).encode()
        content[: 8 + size] = struct.pack("<Q", len(packed)) + packed
    path.write_bytes(bytes(content))
    return how


def _rewritten(path: Path, how: str, rng: random.Random, inputs: Inputs) -> None:
    """Another tensor or other metadata, with a right checksum where signed."""
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "checksum"}
    if "tensor" in how:
        name = rng.choice([*tensors, "x"])
        shape = [*tensors.get(name, torch.zeros(1)).shape]
        if rng.random() < 0.5 and shape:
            shape[rng.randrange(len(shape))] = rng.choice(SIZES)
        tensors[name] = inputs.tensor(shape)
        if rng.random() < 0.2:
            del tensors[name]
    elif "content" in metadata and rng.random() < 0.8:
        said = json.loads(metadata["content"])
        _change_json(said, rng)
        metadata["content"] = json.dumps(said)
    else:
        metadata[rng.choice([*metadata])] = inputs.text().encode(errors="replace").decode()
    if how.startswith("signed"):
        writing = sys.modules[f"{PACK}.stylediffusion.storage.writing"]
        writing.write_whole(path, tensors, metadata)
    else:
        save_file(tensors, path, metadata)


def _change_json(held: Any, rng: random.Random) -> None:
    """Put something else somewhere among nested lists and dicts."""
    while True:
        keys = list(held) if isinstance(held, dict) else list(range(len(held)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(held[key], (dict, list)) and held[key] and rng.random() < 0.8:
            held = held[key]
            continue
        held[key] = rng.choice(
            [None, -1, 0, 2**63, 1e308, "x", [], {}, [[]], True, "F8_E4M3", "BF16"])
        return


def equal(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dataclasses, lists and dicts."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and equal(vars(a), vars(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


class WideCLIP:
    """A CLIP whose vectors are wider, as SDXL's beside SD1's."""

    def __init__(self, clip: Any, width: int) -> None:
        self.clip, self.width = clip, width

    def tokenize(self, text: str, **kwargs: Any) -> Any:
        return self.clip.tokenize(text, **kwargs)

    def encode_from_tokens_scheduled(self, tokens: Any) -> Any:
        return [[torch.nn.functional.pad(cross, (0, self.width - cross.shape[-1])), dict(extra)]
                for cross, extra in self.clip.encode_from_tokens_scheduled(tokens)]


def overflowing(model: Any) -> Any:
    """A MODEL that gives NaN."""
    found = model.clone()
    found.set_model_unet_function_wrapper(
        lambda apply, given: apply(given["input"], given["timestep"], **given["c"]) * math.nan)
    return found


def altered(trajectory: Any) -> list[Any]:
    """Trajectories of other sizes, channels, prompts and steps, and one that is not finite."""
    latents = trajectory.latents
    return [
        replace(trajectory, latents=latents[..., :9, :7]), replace(trajectory, prompt="a dog"),
        replace(trajectory, latents=latents[:, :2]), replace(trajectory, layers=()),
        replace(trajectory, latents=latents * math.nan), replace(trajectory, latents=latents * 1e6),
        replace(trajectory, latents=latents.flip(-1)),
    ]
