"""Where inversions lie: in the host's output folder, and in its input folder if put there."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..method.data import Embedding, Trajectory, require_own_embedding
from ..prompts.quoting import quoted
from ..storage import inversion_file
from ..storage.writing import remove_stale_parts
from .control_nets import control_net_of
from .inputs import require_given, require_text

ENDING = ".inversion.safetensors"
FOLDERS = {
    "output": folder_paths.get_output_directory,
    "input": folder_paths.get_input_directory,
}
ELSEWHERE = "write another folder in filename_prefix"
OWNER = f"ComfyUI may not write there; give it the right to, or {ELSEWHERE}"
FULL = "the disk is full; free some space"
BLOCKED = f"a file, or a link to nothing, stands in a folder's place; move it away, or {ELSEWHERE}"
NAME = "write another name in filename_prefix"
REMEDIES = {
    errno.EACCES: OWNER, errno.EPERM: OWNER, errno.EROFS: OWNER,
    errno.ENOSPC: FULL, errno.EDQUOT: FULL,
    errno.EFBIG: f"the disk takes no file of this size; {ELSEWHERE}",
    errno.ENOTDIR: BLOCKED, errno.EEXIST: BLOCKED,
    errno.EISDIR: f"a folder stands in the file's place; {NAME}",
    errno.ENAMETOOLONG: "the name is too long; write a shorter one in filename_prefix",
    errno.ELOOP: f"links lead in a circle there; {ELSEWHERE}",
    errno.EINVAL: f"the disk takes no such name, as with : or ? on Windows; {NAME}",
}
LONGEST_SHOWN = 200
LISTED_SECONDS = 1.0


def save_inversion(
    trajectory: Trajectory | None, embedding: Embedding | None, filename_prefix: str
) -> Path:
    """Write the next numbered file under the output folder and return its path.

    Raises ValueError where the embedding is another trajectory's, under a ControlNet, for numbers
    that are not finite, and where the disk or the name does not allow it.
    """
    require_given(trajectory, "trajectory", "DDIM Invert")
    require_text(filename_prefix, "filename_prefix")
    _require_inside(filename_prefix)
    assert trajectory is not None
    if control_net_of(trajectory) is not None:
        raise ValueError(
            "the picture was inverted under a ControlNet, which a file does not hold, and without "
            "it the edits would differ; keep DDIM Invert in the graph, or remove its control_net "
            "and control_image and run again"
        )
    if embedding is not None:
        require_own_embedding(trajectory, embedding)
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory())
        remove_stale_parts(Path(folder), ENDING)
        path = Path(folder) / f"{name}_{counter:05}_{ENDING}"
        inversion_file.save(path, trajectory, embedding)
        _listed.cache_clear()
    except OSError as error:
        raise ValueError(_not_saved(error, filename_prefix)) from error
    return path


def _require_inside(filename_prefix: str) -> None:
    """Raise ValueError for a prefix that leads out of the output folder, as the host sees it."""
    output = os.path.abspath(folder_paths.get_output_directory())
    folder = os.path.dirname(os.path.normpath(filename_prefix))
    place = os.path.abspath(os.path.join(output, folder))
    if not _below(output, place):
        raise ValueError(
            f"filename_prefix is '{filename_prefix[:LONGEST_SHOWN]}', which leads outside the "
            "output folder; write a folder and a name under it, as in StyleDiffusion/inversion")


def _not_saved(error: OSError, filename_prefix: str) -> str:
    place = quoted(os.path.join(folder_paths.get_output_directory(), filename_prefix))
    if len(place) > LONGEST_SHOWN:
        place = place[:LONGEST_SHOWN] + "..."
    remedy = REMEDIES.get(error.errno or 0, ELSEWHERE)
    return (f"the inversion was not saved as '{place}' ({error.strerror or error}): {remedy}, and "
            "run again")


def saved_inversions() -> list[str]:
    """All inversions in the output and input folders, newest first, as "name [folder]".

    Folders may hold anything, and change meanwhile: what cannot be read, or typed, is left out.
    The host asks several times a prompt, of folders of any size: a list is good for a second.
    """
    second = int(time.monotonic() / LISTED_SECONDS)
    return list(_listed(second, tuple((kind, folder()) for kind, folder in FOLDERS.items())))


@lru_cache(maxsize=1)
def _listed(second: int, folders: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    files = []
    for kind, folder in folders:
        root = Path(folder)
        for path, modified in _files_under(root):
            name = path.relative_to(root).as_posix()
            if _is_text(name):
                files.append((modified, f"{name} [{kind}]"))
    return tuple(name for _, name in sorted(files, reverse=True))


def _files_under(root: Path) -> Iterator[tuple[Path, float]]:
    """(path, time of change) of every inversion's file; links to folders are not followed."""
    folders = [str(root)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.endswith(ENDING):
                        state = entry.stat()
                        if stat.S_ISREG(state.st_mode):
                            yield Path(entry.path), state.st_mtime


def _is_text(name: str) -> bool:
    """Whether a name is made of characters: one that is no UTF-8 is not."""
    return quoted(name) == name


def _within(folder: str, path: Path) -> bool:
    """Whether a path is in a folder, links followed; on another drive, or with a NUL, it is not."""
    try:
        return _below(os.path.realpath(folder), os.path.realpath(path))
    except ValueError:
        return False


def _below(root: str, place: str) -> bool:
    """Whether one absolute path is in another; those on different drives are not."""
    try:
        return os.path.commonpath((root, place)) == root
    except ValueError:
        return False


def path_of(file: str) -> Path:
    """The path of a saved inversion; raises ValueError for anything else on this machine."""
    for kind, folder in FOLDERS.items():
        name = file.removesuffix(f" [{kind}]")
        path = Path(folder()) / name
        if name != file and name.endswith(ENDING) and _within(folder(), path):
            if not os.path.isfile(path):
                raise ValueError(
                    f"the inversion '{quoted(name)}' is not in the {kind} folder any more; save "
                    "it again or choose another"
                )
            return path
    raise ValueError(
        f"'{quoted(file)}' is not an inversion in the output or input folder; choose one from the "
        "list, or save one with Save Inversion"
    )


def load_inversion(file: str) -> tuple[Trajectory, Embedding | None]:
    """Read an inversion by its name in the list."""
    return inversion_file.load(path_of(file))
