"""From the edits of one picture to a prompt in ComfyUI's API format, over the pack's own nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .methods import (
    EXACT,
    EXACT_WITHOUT_MAPS,
    FAST,
    NEGATIVE,
    NOTHING,
    NULL_TEXT,
    SDEDIT,
    TEXT_EMBEDDING,
    Method,
)
from .rows import TAUS, Row

Prompt = dict[str, dict[str, Any]]
PACK = "StyleDiffusion"
METER, METER_READING = "StyleDiffusionBenchMeter", "StyleDiffusionBenchReading"
INVERSION, LEARNING = ONCE = ("inversion", "learning")  # stages that all edits of a picture share
NODE_TAUS = {"tau_v": 0.5, "tau_c": 0.6, "tau_s": 0.6, "tau_u": 0.0}


@dataclass(frozen=True)
class Settings:
    """What all edits of a run share. Without a checkpoint the pack's demo model is used.

    `side` is that of the square whose area pictures are brought to; `blend` the threshold, start
    and pooling of local blend; `strength` and `seed` are SDEdit's. The seed also starts networks.
    """

    checkpoint: str = ""
    clip_vision: str = ""
    side: int = 512
    steps: int = 30
    guidance: float = 7.5
    blend: tuple[float, float, int] = (0.3, 0.2, 3)
    strength: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Entry:
    """A row under a method."""

    row: Row
    method: Method

    @property
    def taus(self) -> dict[str, float]:
        """The method's, the row's own, else the node's defaults."""
        said = {name: self.method.taus.get(name, getattr(self.row, name)) for name in TAUS}
        return {name: NODE_TAUS[name] if value is None else value for name, value in said.items()}


@dataclass(frozen=True)
class Place:
    """Where an entry's edit comes out: a node, the picture of its batch, its reconstruction's.

    `stage` is the sampling that it is part of, in `Graph.readings`.
    """

    node: str
    picture: int
    reconstruction: int | None
    stage: str


@dataclass(frozen=True)
class Graph:
    """A prompt, where each entry comes out, and the nodes that tell rows and seconds, by stage."""

    prompt: Prompt
    places: tuple[Place, ...]
    readings: dict[str, str]


class Nodes:
    """A prompt while it grows."""

    def __init__(self, label: str) -> None:
        self.prompt: Prompt = {}
        self.readings: dict[str, str] = {}
        self.label = label

    def add(self, name: str, kind: str, **inputs: Any) -> str:
        """Add a node; a name that is taken stays what it was."""
        self.prompt.setdefault(name, {
            "class_type": kind, "inputs": {k: v for k, v in inputs.items() if v is not None}})
        return name

    def model(self, stage: str, what: str = "") -> list[Any]:
        """The model, with a meter of its own for what is done in every stage."""
        if not self.label:
            return ["model", 0]
        name = self.add(f"meter of {stage}", METER, model=["model", 0],
                        label=f"{self.label}: {stage}: {what}")
        return [name, 0]

    def read(self, stage: str, after: list[Any]) -> None:
        """Have the stage's meter read once its work is done."""
        if self.label:
            self.readings[stage] = self.add(
                f"reading of {stage}", METER_READING, model=self.model(stage), after=after)


def graph(
    entries: Sequence[Entry], image: str, settings: Settings, label: str = ""
) -> Graph:
    """The prompt of edits of one picture that learn the same; `image` is its name on the server.

    They invert and learn once, and those with the same windows share a batch. With a label, meters
    count rows and seconds (bench/meter); the label keeps the host from reusing a measured node.
    """
    nodes = Nodes(label)
    _add_model(nodes, settings)
    nodes.add("image", "LoadImage", image=image)
    nodes.add("latent", "VAEEncode", pixels=["image", 0], vae=["model", 2])
    if entries[0].method.learning == SDEDIT:
        places = [_sdedit(nodes, i, entry, settings) for i, entry in enumerate(entries)]
    else:
        _add_inversion(nodes, entries[0], settings)
        places = _add_edits(nodes, entries, settings)
    return Graph(nodes.prompt, tuple(places), nodes.readings)


def _add_model(nodes: Nodes, settings: Settings) -> None:
    if settings.checkpoint:
        nodes.add("model", "CheckpointLoaderSimple", ckpt_name=settings.checkpoint)
    else:
        nodes.add("model", PACK + "LoadDemoModel")


def _add_inversion(nodes: Nodes, entry: Entry, settings: Settings) -> None:
    learning = entry.method.learning
    # Guidance away from the source prompt itself is negative-prompt inversion.
    negative = entry.row.prompt if learning == NEGATIVE else ""
    nodes.add("trajectory", PACK + "DDIMInvert", model=nodes.model(INVERSION), clip=["model", 1],
              latent=["latent", 0], prompt=entry.row.prompt, negative_prompt=negative,
              steps=settings.steps, inversion=entry.method.inversion or None)
    nodes.read(INVERSION, ["trajectory", 0])
    if learning in (NOTHING, NEGATIVE):
        return
    shared = {"model": nodes.model(LEARNING), "trajectory": ["trajectory", 0],
              "guidance": settings.guidance}
    if learning in (NULL_TEXT, TEXT_EMBEDDING):
        nodes.add("learning", PACK + "LearnPromptEmbedding", **shared, learn=learning,
                  inner_steps=10, learning_rate=0.01)
    else:
        exact = learning in (EXACT, EXACT_WITHOUT_MAPS)
        nodes.add("learning", PACK + "LearnValueEmbedding", **shared,
                  **(_vision(nodes, settings) if exact else {}),
                  preset=EXACT if exact else FAST, seed=settings.seed, inner_steps=100,
                  learning_rate=0.01, attention_weight=float(learning == EXACT),
                  form="scale and shift")
    nodes.read(LEARNING, ["learning", 0])


def _vision(nodes: Nodes, settings: Settings) -> dict[str, Any]:
    """What the mapping networks look at; without a tower exact learns scale and shift directly."""
    if not settings.checkpoint:
        return {"clip_vision": ["model", 3], "image": ["image", 0]}
    if not settings.clip_vision:
        return {}
    nodes.add("tower", PACK + "LoadCLIPVision", clip_name=settings.clip_vision)
    return {"clip_vision": ["tower", 0], "image": ["image", 0]}


def _add_edits(nodes: Nodes, entries: Sequence[Entry], settings: Settings) -> list[Place]:
    """A controller and a Sample for each set of windows; a row's words are a part of their own."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        same = (entry.method.exact_source, *entry.taus.values(), entry.row.mode)
        groups.setdefault(same, []).append(entry)
    found: dict[tuple[str, str], Place] = {}
    for number, group in enumerate(groups.values()):
        stage = f"sampling {number}"
        node = _add_group(nodes, number, group, settings)
        found |= {(entry.row.name, entry.method.name): Place(node, 1 + i, 0, stage)
                  for i, entry in enumerate(group)}
    return [found[entry.row.name, entry.method.name] for entry in entries]


def _add_group(nodes: Nodes, number: int, group: list[Entry], settings: Settings) -> str:
    first, learnt, stage = group[0], "learning" in nodes.prompt, f"sampling {number}"
    threshold, start, pooling = settings.blend
    nodes.add(f"control {number}", PACK + "P2PlusController", clip=["model", 1],
              trajectory=["trajectory", 0], targets="\n".join(e.row.target for e in group),
              mode=first.row.mode, **first.taus,
              blend_words="; ".join(e.row.blend_words for e in group),
              emphasis="; ".join(e.row.emphasis for e in group),
              blend_threshold=threshold, blend_start=start, blend_pooling=pooling)
    nodes.add(f"edits {number}", PACK + "Sample",
              model=nodes.model(stage, ", ".join(e.row.target for e in group)),
              trajectory=["trajectory", 0], control=[f"control {number}", 0],
              value_embedding=["learning", 0] if learnt else None, guidance=settings.guidance,
              exact_source=first.method.exact_source)
    nodes.read(stage, [f"edits {number}", 0])
    return _show(nodes, str(number), [f"edits {number}", 0])


def _sdedit(nodes: Nodes, number: int, entry: Entry, settings: Settings) -> Place:
    """Meng et al. 2022: noise to a strength, then the target prompt, by the host's own sampler."""
    for name, text in ((f"target {number}", entry.row.target), ("negative", "")):
        nodes.add(name, "CLIPTextEncode", clip=["model", 1], text=text)
    stage = f"sampling {number}"
    nodes.add(f"edits {number}", "KSampler",
              model=nodes.model(stage, entry.row.target),
              seed=settings.seed, steps=settings.steps, cfg=settings.guidance,
              sampler_name="euler", scheduler="normal", positive=[f"target {number}", 0],
              negative=["negative", 0], latent_image=["latent", 0], denoise=settings.strength)
    nodes.read(stage, [f"edits {number}", 0])
    return Place(_show(nodes, str(number), [f"edits {number}", 0]), 0, None, stage)


def _show(nodes: Nodes, number: str, latent: list[Any]) -> str:
    nodes.add(f"decoded {number}", "VAEDecode", samples=latent, vae=["model", 2])
    return nodes.add(f"pictures {number}", "PreviewImage", images=[f"decoded {number}", 0])
