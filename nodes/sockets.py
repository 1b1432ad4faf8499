"""The pack's own socket types; their names are promises to saved graphs."""

from __future__ import annotations

from comfy_api.latest import io

TrajectorySocket = io.Custom("STYLEDIFFUSION_TRAJECTORY")
ValueEmbeddingSocket = io.Custom("STYLEDIFFUSION_VALUE_EMBEDDING")
ControlSocket = io.Custom("STYLEDIFFUSION_CONTROL")
CATEGORY = "StyleDiffusion"
EVERY_SEED = 0xFFFFFFFFFFFFFFFF
