"""The pack's nodes as `abuse` runs them, with good inputs for each."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import hostile  # isort: skip  (before anything that imports comfy)

import comfy.utils
import comfy_extras.nodes_easycache
import comfy_extras.nodes_model_advanced
import folder_paths
import torch

from reference.pack import load_pack


class Nodes:
    """The pack's nodes, good inputs for each, and folders of its own for all that is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("user", "output", "input", "temp"):
            (folder / name).mkdir()
            getattr(folder_paths, f"set_{name}_directory")(str(folder / name))
        self.pack = load_pack()
        self.by_name = {node.__name__: node for node in self._listed()}
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
        lists = self.by_name[name].define_schema().is_input_list
        if lists:
            inputs = {k: v if isinstance(v, list) else [v] for k, v in inputs.items()}
        with torch.inference_mode():
            found: tuple[Any, ...] = self.by_name[name].execute(**inputs).result or ()
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
            "file": [*self.saved()], "blend_pooling": [1, 3], "feather": [0, 8],
        }

    def saved(self) -> list[str]:
        return [f"{path.relative_to(self.folder / 'output')} [output]"
                for path in (self.folder / "output").rglob("*.inversion.safetensors")]


def jobs(nodes: Nodes) -> dict[str, Callable[[], Any]]:
    """Nodes that take a while."""
    parts = {"model": nodes.model, "trajectory": nodes.trajectory}
    control = nodes.control()
    return {
        "invert": lambda: nodes.invert(nodes.latent, 8),
        "learn fast": nodes.learn, "learn exact": lambda: nodes.learn("exact"),
        "learn null text": lambda: nodes.run(
            "LearnPromptEmbedding", learn="null text", guidance=7.5, **parts),
        "sample": lambda: nodes.run("Sample", guidance=0.0, control=control, **parts),
        "sweep": lambda: nodes.run(
            "TauSweep", vae=nodes.vae, control=control, rows="tau_s", row_values="0, 0.4, 0.8",
            columns="tau_c", column_values="0, 0.5", target=1, guidance=0.0, **parts),
        "heatmaps": lambda: nodes.run(
            "Heatmaps", clip=nodes.clip, words="", target=0, steps="0-1", **parts),
        "generate": lambda: nodes.run(
            "Generate", model=nodes.model, clip=nodes.clip, prompt=nodes.caption, width=128,
            height=128, steps=8, guidance=7.5, seed=0),
    }


@contextlib.contextmanager
def staged() -> Iterator[Nodes]:
    """Nodes whose folders go at the end."""
    logging.disable(logging.WARNING)
    comfy.utils.set_progress_bar_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        yield Nodes(Path(folder))
