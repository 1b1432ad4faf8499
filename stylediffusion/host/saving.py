"""Where inversions lie: in the host's output folder, and in its input folder if put there."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .. import files
from ..artifacts import Trajectory, ValueEmbedding, require_own_embedding
from .control_nets import control_net_of

ENDING = ".inversion.safetensors"
FOLDERS = {
    "output": folder_paths.get_output_directory,
    "input": folder_paths.get_input_directory,
}


def save_inversion(
    trajectory: Trajectory, embedding: ValueEmbedding | None, filename_prefix: str
) -> Path:
    """Write the next numbered file under the output folder and return its path.

    Raises ValueError where the embedding is another trajectory's, and under a ControlNet.
    """
    if control_net_of(trajectory.positive) is not None:
        raise ValueError(
            "the picture was inverted under a ControlNet, which a file does not hold, and without "
            "it the edits would differ; keep DDIM Invert in the graph, or remove its control_net "
            "and control_image and run again"
        )
    if embedding is not None:
        require_own_embedding(trajectory, embedding)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        filename_prefix, folder_paths.get_output_directory())
    path = Path(folder) / f"{name}_{counter:05}_{ENDING}"
    files.save(path, trajectory, embedding)
    return path


def saved_inversions() -> list[str]:
    """All inversions in the output and input folders, newest first, as "name [folder]"."""
    found = []
    for kind, folder in FOLDERS.items():
        root = Path(folder())
        for path in root.rglob(f"*{ENDING}"):
            found.append((path.stat().st_mtime, f"{path.relative_to(root).as_posix()} [{kind}]"))
    return [name for _, name in sorted(found, reverse=True)]


def path_of(file: str) -> Path:
    """The path of a saved inversion; raises ValueError for anything else on this machine."""
    for kind, folder in FOLDERS.items():
        name = file.removesuffix(f" [{kind}]")
        path = Path(folder()) / name
        if name != file and name.endswith(ENDING) and folder_paths.is_within_directory(
                folder(), str(path)):
            if not path.is_file():
                raise ValueError(
                    f"the inversion '{name}' is not in the {kind} folder any more; save it again "
                    "or choose another"
                )
            return path
    raise ValueError(
        f"'{file}' is not an inversion in the output or input folder; choose one from the list, "
        "or save one with Save Inversion"
    )


def load_inversion(file: str) -> tuple[Trajectory, ValueEmbedding | None]:
    """Read an inversion by its name in the list."""
    return files.load(path_of(file))
