"""The systems of the paper's table: what each learns, and what its controller holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .rows import TAUS

NOTHING, SDEDIT, NEGATIVE = "", "sdedit", "negative prompt"
NULL_TEXT, TEXT_EMBEDDING = "null text", "text embedding"
FAST, EXACT, EXACT_WITHOUT_MAPS = "fast", "exact", "exact, no attention loss"
P2PLUS_TAU_U = 0.5


@dataclass(frozen=True)
class Method:
    """What is learnt, whether the source is kept on the inversion's way, and what is held.

    `taus` go before a row's own; `inversion` is a choice of DDIM Invert, empty for the node's own.
    """

    name: str
    learning: str
    exact_source: bool = False
    taus: Mapping[str, float] = field(default_factory=dict)
    inversion: str = ""


INVERSIONS = {
    "sdedit": (SDEDIT, False),
    "ddim": (NOTHING, False),
    "negative-prompt": (NEGATIVE, False),
    "null-text": (NULL_TEXT, False),
    "text-embedding": (TEXT_EMBEDDING, False),
    "direct": (NOTHING, True),
    "stylediffusion": (FAST, False),
    "stylediffusion-direct": (FAST, True),
    "stylediffusion-exact": (EXACT, False),
    "stylediffusion-exact-direct": (EXACT, True),
    "stylediffusion-exact-no-maps": (EXACT_WITHOUT_MAPS, False),
}
CONTROLLERS = {"p2p": 0.0, "p2plus": P2PLUS_TAU_U}
DEFAULT = "stylediffusion"
GRAMMAR = ("behind the plus, with commas between them: p2p, p2plus, tau_v=, tau_c=, tau_s= or "
           "tau_u= and a number from 0 to 1, inversion= and a choice of DDIM Invert")


def method(name: str) -> Method:
    """"ddim", "ddim+p2p", "ddim+p2plus" or "ddim+tau_u=0.3,tau_v=0.8,inversion=EasyInv".

    What is not named is the row's own. Raises ValueError for another name.
    """
    inversion, _, held = name.partition("+")
    if inversion not in INVERSIONS:
        raise ValueError(f"there is no method '{inversion}'; choose one of {', '.join(INVERSIONS)}")
    if inversion == "sdedit" and held:
        raise ValueError(f"'{name}': SDEdit has no attention control; write sdedit")
    taus, refined = {}, ""
    for part in held.split(",") if held else ():
        key, _, value = part.partition("=")
        if key == "inversion" and value:
            refined = value
        elif part in CONTROLLERS:
            taus["tau_u"] = CONTROLLERS[part]
        else:
            taus[key] = _tau(name, part)
    return Method(name, *INVERSIONS[inversion], taus, refined)


def _tau(name: str, part: str) -> float:
    key, _, value = part.partition("=")
    try:
        found = float(value) if key in TAUS else -1.0
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ValueError(f"'{part}' in '{name}' says nothing; {GRAMMAR}")
    return found
