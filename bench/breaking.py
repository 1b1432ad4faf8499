"""Kills, interrupts, broken folders and a long queue, and what is left after each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths

from development.environment import ensure
from development.server import Server

Work = Callable[[], Any]
TARGETS = ("a painting of a {} car in the {}", ("blue", "green", "pink", "orange", "white"),
           ("snow", "city", "desert", "night"))


def child(work: Work) -> int:
    """Work in a forked process, which starts with everything loaded; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def digest(embedding: Any) -> str:
    """Of a learnt embedding's tables."""
    tables = embedding.scale.numpy().tobytes() + embedding.shift.numpy().tobytes()
    return hashlib.sha256(tables).hexdigest()


def kills(
    count: int, rng: random.Random, learn: Work, save: Callable[[Any], Any],
    whole: Callable[[Path], bool], folder: Path,
) -> dict[str, Any]:
    """kill -9 at random moments of learning and saving; then the same run must end as unbroken.

    `whole` says whether a file of the pack can be read.
    """
    wanted, took = _learnt(learn, folder)
    found = {"kills": 0, "half-written files": 0, "other results": 0}
    parts: set[Path] = set()
    for _ in range(count):
        pid = child(lambda: [save(learn()) for _ in range(1000)])
        time.sleep(rng.uniform(0.05, 1.5 * took))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found["kills"] += 1
        files = [path for path in folder.rglob("*") if path.is_file()]
        parts |= {path for path in files if path.suffix == ".part"}
        found["parts left, which later runs remove"] = len(parts)
        found["half-written files"] += sum(
            not whole(path) for path in files if path.suffix == ".safetensors")
        found["other results"] += _learnt(learn, folder)[0] != wanted
    return found


def _learnt(learn: Work, folder: Path) -> tuple[str, float]:
    """The digest of what a process of its own learns, and its seconds."""
    answer, begun = folder / "answer.txt", time.monotonic()
    answer.unlink(missing_ok=True)
    os.waitpid(child(lambda: answer.write_text(digest(learn()))), 0)
    return answer.read_text() if answer.exists() else "failed", time.monotonic() - begun


def interrupts(count: int, rng: random.Random, jobs: dict[str, Work]) -> dict[str, Any]:
    """Interrupts at random moments of nodes, and the seconds until each has stopped."""
    took = {}
    for name, job in jobs.items():
        begun = time.monotonic()
        job()
        took[name] = time.monotonic() - begun
    waits: list[float] = []
    finished = 0
    for _ in range(count):
        name = rng.choice([*jobs])
        asked: list[float] = []

        def ask(delay: float = rng.uniform(0, took[name]), asked: list[float] = asked) -> None:
            time.sleep(delay)
            asked.append(time.monotonic())
            comfy.model_management.interrupt_current_processing()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            jobs[name]()
            finished += 1
        except comfy.model_management.InterruptProcessingException:
            pass
        ended = time.monotonic()
        thread.join()
        comfy.model_management.interrupt_current_processing(False)
        waits.append(max(0.0, ended - asked[0]))
    return {"interrupts": count, "longest wait (s)": round(max(waits), 2),
            "median wait (s)": round(statistics.median(waits), 3),
            "ended by themselves before": finished}


@contextlib.contextmanager
def full() -> Iterator[None]:
    """No file may grow beyond 2 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only() -> Iterator[None]:
    """Folders that nobody may write to, not even root."""
    with _in_folders(Path("/sys/kernel"), Path("/sys/kernel")):
        yield


@contextlib.contextmanager
def blocked(parent: Path) -> Iterator[None]:
    """A file stands where the folders should be."""
    place = parent / "file"
    place.touch()
    with _in_folders(place, place):
        yield


@contextlib.contextmanager
def vanishing(parent: Path) -> Iterator[None]:
    """Folders that another program deletes all the time."""
    user, output, done = parent / "vanishing user", parent / "vanishing output", threading.Event()

    def delete() -> None:
        while not done.wait(0.002):
            for folder in (user, output):
                shutil.rmtree(folder, ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        with _in_folders(user, output):
            yield
    finally:
        done.set()
        thread.join()
        for folder in (user, output):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _in_folders(user: Path, output: Path) -> Iterator[None]:
    before = folder_paths.get_user_directory(), folder_paths.get_output_directory()
    folder_paths.set_user_directory(str(user))
    folder_paths.set_output_directory(str(output))
    try:
        yield
    finally:
        folder_paths.set_user_directory(before[0])
        folder_paths.set_output_directory(before[1])


def queue(count: int) -> dict[str, Any]:
    """Edits queued at a real server one after another: its memory, and the files it leaves."""
    environment = ensure()
    base = environment.base_directory("abuse")
    for folder in ("output", "temp", "user/stylediffusion"):
        shutil.rmtree(base / folder, ignore_errors=True)
        (base / folder).mkdir(parents=True)
    memory: list[int] = []
    with Server(environment.python, environment.host, base) as server:
        graph = _with_defaults(_graph(), server.object_info())
        for i in range(count):
            graph["control"]["inputs"].update(_edit(i))
            server.wait(server.queue(graph))
            assert server._process is not None
            memory.append(_resident(server._process.pid))
            if i % 50 == 49:
                print(f"  {i + 1} edits, {memory[-1] / 2**20:.0f} MiB", flush=True)
        left = [path for name in ("output", "temp", "user/stylediffusion")
                for path in (base / name).rglob("*") if path.is_file()]
    settled = max(1, count // 5)
    first, last = (statistics.median(part)
                   for part in (memory[settled : 2 * settled], memory[-settled:]))
    return {"edits": count, "MiB after the first fifth": round(first / 2**20),
            "MiB at the end": round(last / 2**20),
            "change (%)": round(100 * (last / first - 1), 2), "files left": len(left)}


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _edit(i: int) -> dict[str, Any]:
    text, colours, places = TARGETS
    return {"targets": text.format(colours[i % len(colours)], places[i % len(places)]),
            "tau_c": round(0.2 + (i % 13) / 20, 2), "tau_s": round(0.1 + i / 1000, 4)}


def _with_defaults(graph: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """A graph in which what is not said is as the page would have it."""
    for node in graph.values():
        for name, (_, *options) in nodes[node["class_type"]]["input"]["required"].items():
            if options and "default" in options[0]:
                node["inputs"].setdefault(name, options[0]["default"])
    return graph


def _graph() -> dict[str, Any]:
    """The demo model's edit of one scene, that shows text and saves nothing."""
    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    own = "StyleDiffusion"
    model, trajectory = ["model", 0], ["invert", 0]
    return {
        "model": node(f"{own}LoadDemoModel"),
        "scene": node(f"{own}DemoScene", object="car", colour="red", place="meadow",
                      style="painting", seed=0),
        "encode": node("VAEEncode", pixels=["scene", 0], vae=["model", 2]),
        "invert": node(f"{own}DDIMInvert", model=model, clip=["model", 1], latent=["encode", 0],
                       prompt=["scene", 1], negative_prompt="", steps=5),
        "learn": node(f"{own}LearnValueEmbedding", model=model, trajectory=trajectory,
                      preset="fast", guidance=7.5, seed=0),
        "control": node(f"{own}P2PlusController", clip=["model", 1], trajectory=trajectory,
                        mode="auto", tau_v=0.5, tau_u=0.0, blend_words="car"),
        "sample": node(f"{own}Sample", model=model, trajectory=trajectory, guidance=0.0,
                       value_embedding=["learn", 0], control=["control", 0]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["model", 2]),
        "keep": node(f"{own}KeepPixels", image=["scene", 0], edits=["decode", 0],
                     mask=["sample", 1], feather=4),
    }

