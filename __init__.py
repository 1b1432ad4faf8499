"""StyleDiffusion for ComfyUI: text-based editing of real images (arXiv 2303.15649)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import StyleDiffusionExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> StyleDiffusionExtension:
    """The host's entrance; nodes are imported only here."""
    from .nodes import StyleDiffusionExtension

    return StyleDiffusionExtension()
