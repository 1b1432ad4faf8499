"""What the user sees: one file a verb, each ending in its list."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from ..stylediffusion.host.console import printable, saying_what_can_be_printed
from ..stylediffusion.host.doors import checking_inputs
from . import demo, edit, files, invert, learn, views

VERBS = (invert, learn, edit, views, files, demo)
NODES = [saying_what_can_be_printed(checking_inputs(node))
         for verb in VERBS for node in verb.NODES]


class StyleDiffusionExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Called by the host once, at start-up."""
        logging.getLogger("stylediffusion").addFilter(printable)
        return [*NODES]
