"""The graphs command: draws example graphs and blocks anew from the host's node definitions."""

from __future__ import annotations

from . import blocks, environment, examples
from .server import Server


def main() -> None:
    """Write workflows/*.json and subgraphs/*.json."""
    found = environment.ensure()
    with Server(found.python, found.host, found.base_directory("graphs")) as server:
        for path in (*examples.written(server.object_info()),
                     *blocks.written(server.object_info())):
            print(path.name)


if __name__ == "__main__":
    main()
