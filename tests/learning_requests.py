"""Learning requests of either preset from single constants."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from stylediffusion_pack.stylediffusion.host.learn.request import LearningRequest
from stylediffusion_pack.stylediffusion.method.adam import AdamSchedule
from stylediffusion_pack.stylediffusion.method.learning import LearningSettings
from stylediffusion_pack.stylediffusion.method.quasi_newton import QuasiNewtonSchedule

ANY = (LearningSettings, AdamSchedule, QuasiNewtonSchedule)


def request(
    fast: bool = True, form: str = "scale and shift", seed: int = 0, **constants: Any
) -> LearningRequest:
    """Each constant goes to what holds it; those of the other preset's schedule are left out."""
    assert constants.keys() <= {field.name for kind in ANY for field in fields(kind)}
    settings, schedule = (
        kind(**{k: v for k, v in constants.items() if k in {field.name for field in fields(kind)}})
        for kind in (LearningSettings, QuasiNewtonSchedule if fast else AdamSchedule))
    return LearningRequest(settings, schedule, form, seed)
