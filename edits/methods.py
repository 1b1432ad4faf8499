"""The systems of the paper's table: what each learns, and what its controller holds."""

from __future__ import annotations

from dataclasses import dataclass

NOTHING, SDEDIT, NEGATIVE = "", "sdedit", "negative prompt"
NULL_TEXT, TEXT_EMBEDDING = "null text", "text embedding"
FAST, EXACT, EXACT_WITHOUT_MAPS = "fast", "exact", "exact, no attention loss"
P2PLUS_TAU_U = 0.5


@dataclass(frozen=True)
class Method:
    """What is learnt, whether the source is kept on the inversion's way, and tau_u.

    A tau_u of None is the row's own, else the node's default.
    """

    name: str
    learning: str
    exact_source: bool = False
    tau_u: float | None = None


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
CONTROLLERS = {"": None, "p2p": 0.0, "p2plus": P2PLUS_TAU_U}
DEFAULT = "stylediffusion"


def method(name: str) -> Method:
    """"ddim", "ddim+p2p", "ddim+p2plus" or "ddim+0.3", the last being tau_u.

    Without anything behind the plus the rows' own tau_u holds. Raises ValueError for another name.
    """
    inversion, _, controller = name.partition("+")
    if inversion not in INVERSIONS:
        raise ValueError(f"there is no method '{inversion}'; choose one of {', '.join(INVERSIONS)}")
    learning, exact_source = INVERSIONS[inversion]
    if inversion == "sdedit" and controller:
        raise ValueError(f"'{name}': SDEdit has no attention control; write sdedit")
    if controller in CONTROLLERS:
        return Method(name, learning, exact_source, CONTROLLERS[controller])
    try:
        tau_u = float(controller)
    except ValueError:
        tau_u = -1.0
    if not 0 <= tau_u <= 1:
        raise ValueError(f"'{name}' ends in '{controller}', which is neither p2p, p2plus nor a "
                         "tau_u from 0 to 1")
    return Method(name, learning, exact_source, tau_u)
