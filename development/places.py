"""Where things live: the per-user cache, the server's private base directory, the linked pack."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "stylediffusion"
BASE_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user/default/workflows")
ASTRAY = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def cache_root() -> Path:
    """The per-user cache directory: STYLEDIFFUSION_CACHE, else the platform's convention."""
    if named := os.environ.get("STYLEDIFFUSION_CACHE"):
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        parent = "~/Library/Caches"
    else:
        parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser() / "stylediffusion"


def clean_variables(**extra: str) -> dict[str, str]:
    """This process's environment without what would lead another Python astray, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if name not in ASTRAY}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1", **extra}


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
    """Make `link` lead to `root`: a symbolic link, on Windows a junction."""
    if link.exists() and os.path.realpath(link) == os.path.realpath(root):
        return
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        link.rmdir()  # takes a junction away without looking into it, and no folder with files
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(root)], check=True)
