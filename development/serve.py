"""The serve command: the real page with the pack in it and the demo graph open.

    python -m development.serve [--no-browser] [--port N]
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import time
import webbrowser
from pathlib import Path

from .environment import Environment, ensure
from .examples import FOLDER
from .places import PACK_NAME
from .server import LOCAL, Server, ServerError

OPENED = "Demo"


def run(environment: Environment, browser: bool, port: int | None) -> None:
    """Serve until Ctrl-C; the graphs of workflows/ are in the page's list, saved ones as saved.

    Raises ServerError for a port that something else listens on, and when ComfyUI ends by itself.
    """
    if port is not None and not is_free(port):
        raise ServerError(f"Port {port} is taken by another program; name another one, or none.")
    base = environment.base_directory("serve")
    copy_missing(sorted(FOLDER.glob("*.json")), base / "user" / "default" / "workflows")
    print("Starting ComfyUI ...", flush=True)
    with Server(environment.python, environment.host, base, port=port) as server:
        address = f"{server.url}/?template={OPENED}&source={PACK_NAME}"
        print(f"{address}\nCtrl-C stops it; its log is {server.log}", flush=True)
        if browser:
            webbrowser.open(address)
        try:
            while True:
                server.require_running()
                time.sleep(2)
        except KeyboardInterrupt:
            print("\nStopped.")


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((LOCAL, port)) != 0


def copy_missing(files: list[Path], folder: Path) -> None:
    """Copy files into a folder; one that is there already may be a person's own work."""
    for file in files:
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="dev.py serve")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--port", type=int, help="a port of your choice, else a free one")
    chosen = parser.parse_args()
    try:
        run(ensure(), not chosen.no_browser, chosen.port)
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
