"""The serve command: the real page with the pack in it and the demo graph open."""

from __future__ import annotations

import shutil
import time
import webbrowser

from .environment import Environment
from .places import PACK_NAME, ROOT
from .server import Server

OPENED = "demo_edit"


def run(environment: Environment, browser: bool, port: int | None) -> int:
    """Serve until Ctrl-C; the graphs of workflows/ are in the page's list."""
    base = environment.base_directory("serve")
    graphs = sorted((ROOT / "workflows").glob("*.json"))
    for graph in graphs:
        shutil.copyfile(graph, base / "user" / "default" / "workflows" / graph.name)
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
                server.get_json("/system_stats")
                time.sleep(2)
        except KeyboardInterrupt:
            print("\nStopped.")
            return 0
