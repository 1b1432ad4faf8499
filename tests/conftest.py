"""Loads ComfyUI and the pack for the tests: the pack under one fixed name, as the host would."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from development.device import host_arguments

ROOT = Path(__file__).resolve().parent.parent
PACK = "stylediffusion_pack"


def _load_host() -> None:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    # The server tests run the host's own choice on a CPU, which is slower on long sequences.
    arguments = sys.argv
    where = host_arguments(Path(sys.executable))
    sys.argv = [sys.argv[0], *where, "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401  (reads sys.argv once)

    sys.argv = arguments


def _load_pack() -> None:
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


if os.environ.get("COMFYUI_PATH"):
    _load_host()
_load_pack()
