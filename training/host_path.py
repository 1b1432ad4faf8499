"""Make ComfyUI importable for the scripts of this folder; import this before comfy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from development.device import host_arguments  # type: ignore[import-not-found]

own_arguments = sys.argv[1:]

if os.environ.get("COMFYUI_PATH"):
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    where = host_arguments(Path(sys.executable))
    sys.argv = [sys.argv[0], *where, "--use-pytorch-cross-attention"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
