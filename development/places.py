"""Where things live: the per-user cache, the server's private base directory, the linked pack."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "stylediffusion"
BASE_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user/default/workflows")
NOT_COPIED = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "checkpoints")


def cache_root(platform: str | None = None, variables: Mapping[str, str] | None = None) -> Path:
    """The per-user cache directory: STYLEDIFFUSION_CACHE, else the platform's convention."""
    variables = os.environ if variables is None else variables
    platform = platform or sys.platform
    if variables.get("STYLEDIFFUSION_CACHE"):
        return Path(variables["STYLEDIFFUSION_CACHE"]).expanduser().absolute()
    home = Path.home()
    if platform == "win32":
        parent = Path(variables.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif platform == "darwin":
        parent = home / "Library" / "Caches"
    else:
        parent = Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    return parent / "stylediffusion"


def prepare_base(parent: Path, purpose: str, root: Path = ROOT) -> Path:
    """Make and return a base directory for the host's server with this clone's pack linked in.

    Each clone has its own, and each purpose too: a starting server empties the temp folder.
    """
    clone = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    base = parent / "bases" / clone / purpose
    for folder in BASE_FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes" / PACK_NAME, root)
    return base


def link_pack(link: Path, root: Path = ROOT) -> None:
    """Make `link` lead to `root`: a symbolic link, on Windows a junction, at worst a copy."""
    if link.exists() and os.path.realpath(link) == os.path.realpath(root):
        return
    _remove(link)
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        made = subprocess.run(
            ["cmd", "/c", "mklink", "/J", str(link), str(root)], capture_output=True
        )
        if made.returncode != 0:
            shutil.copytree(root, link, ignore=NOT_COPIED)


def _remove(link: Path) -> None:
    if link.is_symlink():
        link.unlink()
        return
    # rmdir takes a junction away without looking into it; only a copy is left after that.
    with contextlib.suppress(OSError):
        link.rmdir()
    if link.is_dir():
        shutil.rmtree(link)
