"""Ratios of times, measured in turns, so that a slow minute slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch

Work = Callable[[], Any]


def clock() -> float:
    """Seconds, once an accelerator has done all that was asked of it."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def seconds(work: Work) -> float:
    """How long one call takes."""
    started = clock()
    work()
    return clock() - started


def ratio(work: Work, against: Work, pairs: int) -> dict[str, float]:
    """Median and quartiles of time(work) / time(against) over pairs in turn, after a warm-up."""
    work()
    against()
    rows = [(seconds(against), seconds(work)) for _ in range(pairs)]
    ratios = sorted(mine / other for other, mine in rows)
    low, middle, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if pairs > 1 else ratios * 3)
    return {
        "median": round(middle, 3), "lower_quartile": round(low, 3),
        "upper_quartile": round(high, 3),
        "seconds": round(statistics.median(mine for _, mine in rows), 4),
        "seconds_against": round(statistics.median(other for other, _ in rows), 4),
    }
