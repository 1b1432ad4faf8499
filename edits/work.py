"""What one worker does at a time: the edits of one picture that learn the same, on one server."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import pictures
from .client import Client, Refused
from .graphs import METER, ONCE, Entry, Graph, Place, Settings, graph
from .measuring import Measure, Seen, measure
from .rows import Failure

OWN = uuid.UUID("5f2c64f6-0d8c-4b0c-9a0f-8b8f0a2b6a10")


@dataclass(frozen=True)
class Job:
    """Edits of one picture under methods that learn the same, and how they are measured.

    `digests` are those of the entries. `files` are the contents of what they name, where a worker
    may not see the disk they lie on.
    """

    entries: tuple[Entry, ...]
    settings: Settings
    digests: tuple[str, ...]
    measure: Measure = measure
    files: Mapping[Path, bytes] = field(default_factory=dict)

    def read(self, path: Path) -> bytes:
        """The contents of a file that a row names."""
        return self.files[path] if path in self.files else path.read_bytes()

    def prepared(self, path: Path) -> bytes:
        """A picture that a row names, as `pictures.prepared`; raises OSError that names it."""
        try:
            return pictures.prepared(self.read(path), self.settings.side)
        except OSError as error:
            raise OSError(f"the picture '{path}' cannot be read: {error}") from error

    def with_files(self) -> Job:
        """The same job, for a worker on any machine."""
        named = {path for e in self.entries for path in (e.row.image, e.row.truth) if path}
        return replace(self, files={path: path.read_bytes() for path in named})


@dataclass(frozen=True)
class Picture:
    """A finished edit: a PNG file that says how it was made and what was measured."""

    entry: Entry
    data: bytes


Outcome = Picture | Failure


def run(client: Client, job: Job) -> list[Outcome]:
    """Run a job on a server; raises WorkerLost. A row that is refused takes no other with it."""
    try:
        source = job.prepared(job.entries[0].row.image)
    except OSError as error:
        return [failed(entry, str(error)) for entry in job.entries]
    digest = hashlib.sha256(source).hexdigest()
    image = client.upload_image(f"edits-{digest[:16]}.png", source)
    label = f"{digest[:16]} {job.entries[0].method.learning}" if METER in client.nodes else ""
    return _run(client, job, job.entries, source, image, label)


def _run(
    client: Client, job: Job, entries: Sequence[Entry], source: bytes, image: str, label: str
) -> list[Outcome]:
    made = graph(entries, image, job.settings, label)
    try:
        done = client.run(made.prompt, prompt_id(made))
    except Refused as error:
        if len(entries) == 1:
            return [failed(entries[0], str(error))]
        # What they share is in the server's cache by now.
        return [outcome for entry in entries
                for outcome in _run(client, job, [entry], source, image, label)]
    spent = {stage: json.loads(done["outputs"][node]["text"][0])
             for stage, node in made.readings.items()}
    shown = client.images(done)
    return [_finished(job, entry, place, source, shown[place.node], effort(made, spent, place))
            for entry, place in zip(entries, made.places, strict=True)]


def _finished(
    job: Job, entry: Entry, place: Place, source: bytes, shown: list[bytes],
    spent: dict[str, Any],
) -> Outcome:
    """An edit, measured; a failure where its truth, say, has another size."""
    again = None if place.reconstruction is None else shown[place.reconstruction]
    try:
        numbers = measured(job, entry, source, shown[place.picture], again)
    except (OSError, ValueError) as error:
        return failed(entry, f"it cannot be measured: {error}")
    return Picture(entry, pictures.png(pictures.opened(shown[place.picture]), {
        **settings_of(entry, job.settings), **numbers, **spent,
        "digest": job.digests[job.entries.index(entry)]}))


def prompt_id(made: Graph) -> str:
    """A canonical UUID of all that decides what a prompt gives."""
    return str(uuid.uuid5(OWN, json.dumps(made.prompt, sort_keys=True)))


def measured(
    job: Job, entry: Entry, source: bytes, edit: bytes, reconstruction: bytes | None
) -> dict[str, Any]:
    """The numbers of one edit."""
    truth = None if entry.row.truth is None else job.prepared(entry.row.truth)
    return job.measure(Seen(
        entry.row, pictures.tensor(source), pictures.tensor(edit),
        None if reconstruction is None else pictures.tensor(reconstruction),
        None if truth is None else pictures.tensor(truth)))


def effort(made: Graph, spent: dict[str, dict[str, Any]], place: Place) -> dict[str, Any]:
    """Rows through the UNet and seconds in it: once a picture, and of the edit's whole batch."""
    batch = spent.get(place.stage)
    if batch is None:
        return {}
    once = [spent[stage] for stage in ONCE if stage in spent]
    return {"unet_rows_once": sum(told["rows"] for told in once),
            "seconds_once": round(sum(told["seconds"] for told in once), 3),
            "unet_rows_batch": batch["rows"], "seconds_batch": batch["seconds"],
            "edits_in_batch": sum(other.stage == place.stage for other in made.places)}


def settings_of(entry: Entry, settings: Settings) -> dict[str, Any]:
    """What a line of the table says before its numbers."""
    row = entry.row
    return {
        "name": row.name, "method": entry.method.name, "image": row.image.name,
        "prompt": row.prompt, "target": row.target, "kind": row.kind,
        "blend_words": row.blend_words, "emphasis": row.emphasis, **entry.taus, "mode": row.mode,
        "checkpoint": settings.checkpoint or "demo model", "steps": settings.steps,
        "guidance": settings.guidance}


def digest_of(entry: Entry, settings: Settings) -> str:
    """Changes with anything that decides an edit: its row, its picture, method and settings."""
    row = asdict(entry.row)
    files = [path and contents(path) for path in (row.pop("image"), row.pop("truth"))]
    method = {**asdict(entry.method), "taus": entry.taus}
    said = json.dumps([row, files, method, asdict(settings)], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@functools.cache
def contents(path: Path) -> str:
    """A hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def failed(entry: Entry, message: str) -> Failure:
    """An edit that gave no picture."""
    name = f"{entry.row.name}, {entry.method.name}"
    return Failure(name, str(entry.row.image), entry.row.target, message)
