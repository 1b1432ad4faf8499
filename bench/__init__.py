"""Measurements: ratios within one run, against the host's own plain step and textbook loops."""
