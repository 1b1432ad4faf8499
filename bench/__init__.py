"""Measurements: ratios within one run, against the host's own plain step and textbook loops."""

import tests  # noqa: F401  (ours, before ComfyUI's folder of that name is on the path)
