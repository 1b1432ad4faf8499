"""Seeing what happened: heatmaps, comparisons, sweeps."""
