"""The serve command: the real page with the pack in it and the demo graph open."""

from __future__ import annotations

import shutil
import time
import webbrowser
from pathlib import Path

from .environment import Environment
from .places import PACK_NAME, ROOT
from .server import Server, ServerError, is_free

OPENED = "Demo"


def run(environment: Environment, browser: bool, port: int | None) -> int:
    """Serve until Ctrl-C; the graphs of workflows/ are in the page's list, saved ones as saved.

    Raises ServerError for a port that something else listens on, and when ComfyUI ends by itself.
    """
    if port is not None and not is_free(port):
        raise ServerError(f"Port {port} is taken by another program; name another one, or none.")
    base = environment.base_directory("serve")
    graphs = sorted((ROOT / "workflows").glob("*.json"))
    copy_missing(graphs, base / "user" / "default" / "workflows")
    print("Starting ComfyUI ...", flush=True)
    with Server(environment.python, environment.host, base, port=port) as server:
        address = server.url
        if any(graph.stem == OPENED for graph in graphs):
            address += f"/?template={OPENED}&source={PACK_NAME}"
        print(f"{address}\nCtrl-C stops it; its log is {server.log}", flush=True)
        if browser:
            webbrowser.open(address)
        try:
            while True:
                server.require_running()
                time.sleep(2)
        except KeyboardInterrupt:
            print("\nStopped.")
            return 0


def copy_missing(files: list[Path], folder: Path) -> None:
    """Copy files into a folder; one that is there already may be a person's own work."""
    for file in files:
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
