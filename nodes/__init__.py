"""What the user sees: one file a family of nodes, each ending in its list."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from ..stylediffusion.host.console import printable, saying_what_can_be_printed
from ..stylediffusion.host.doors import checking_inputs
from . import (
    companions,
    compositing,
    control,
    demo,
    files,
    generation,
    inversion,
    measuring,
    sampling,
    sweep,
    viewing,
    vision,
)

ROOMS = (
    inversion, companions, generation, control, sampling, sweep, viewing, measuring, compositing,
    files, vision, demo)


class StyleDiffusionExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Called by the host once, at start-up."""
        logging.getLogger("stylediffusion").addFilter(printable)
        return [saying_what_can_be_printed(checking_inputs(node))
                for room in ROOMS for node in room.NODES]
