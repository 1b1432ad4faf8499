"""What a node is handed, against its own schema.

The host checks what is typed, but lets NaN through, and nothing that comes over a link: any number,
any text, None of a muted node, or another type through nodes that take everything.
"""

from __future__ import annotations

import functools
import inspect
from numbers import Integral, Real
from typing import Any, TypeVar

from comfy_api.latest import io
from torch import Tensor

from ..method.data import Embedding, Trajectory
from ..method.prompt_to_prompt import Control
from ..prompts.quoting import quoted
from .inputs import require_given, require_text
from .text_encoder import NO_ENCODER

Node = TypeVar("Node", bound=type)
SOURCES: dict[str, tuple[str, type | str]] = {  # what to connect, and its type or what it can do
    "MODEL": ("Load Checkpoint", "model_options"), "CLIP": ("Load Checkpoint", "tokenize"),
    "VAE": ("Load Checkpoint or Load VAE", "decode"), "LATENT": ("VAE Encode or Sample", dict),
    "IMAGE": ("Load Image", Tensor), "MASK": ("Sample's mask, or one you painted", Tensor),
    "CONTROL_NET": ("Load ControlNet Model", "set_cond_hint"),
    "CLIP_VISION": ("Load CLIP Vision", "encode_image"),
    "STYLEDIFFUSION_TRAJECTORY": ("DDIM Invert or Generate", Trajectory),
    "STYLEDIFFUSION_VALUE_EMBEDDING": ("Learn Value Embedding", Embedding),
    "STYLEDIFFUSION_CONTROL": ("P2Plus Controller", Control),
}
SHAPES = {  # the fewest dimensions, of which none may be 0, and what has them
    "IMAGE": (4, "an image, of shape (count, height, width, channels)"),
    "MASK": (2, "a mask, of shape (count, height, width)")}
LONGEST_SHOWN = 60
CHECKS = "checks_inputs"


def checking_inputs(node: Node) -> Node:
    """The node itself, which runs on what its schema allows, and else raises ValueError.

    Asked for again it is left as it is.
    """
    execute: Any = vars(node)["execute"].__func__
    if getattr(execute, CHECKS, False):
        return node
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        given = {**bound, **next((v for k, v in bound.items() if _takes_all(signature, k)), {})}
        for wanted in _inputs(node):
            if wanted.id in given:
                for value in _each(node, given[wanted.id]):
                    require_fit(wanted, value)
        return execute(*args, **kwargs)

    setattr(checked, CHECKS, True)
    node.execute = classmethod(checked)  # type: ignore[attr-defined]
    return node


def _each(node: Any, given: Any) -> list[Any]:
    """The values of an input: some nodes are handed a list, of one where nothing was listed."""
    lists = isinstance(given, list) and given and node.define_schema().is_input_list
    return given if lists else [given]


def _takes_all(signature: inspect.Signature, name: str) -> bool:
    return signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD


@functools.cache
def _inputs(node: Any) -> tuple[io.Input, ...]:
    return tuple(node.define_schema().inputs)


def require_fit(wanted: Any, value: Any) -> None:
    """Raise ValueError, naming the input and its value, for what an input does not take."""
    if isinstance(wanted, (io.Int.Input, io.Float.Input)):
        _require_number(wanted, value)
    elif isinstance(wanted, (io.String.Input, io.Combo.Input)):
        _require_text(wanted, value)
    elif wanted.get_io_type() in SOURCES:
        _require_kind(wanted, value)


def _require_number(wanted: Any, value: Any) -> None:
    require_given(value, wanted.id, "a number")
    whole = isinstance(wanted, io.Int.Input)
    number = isinstance(value, Integral if whole else Real)
    if not number or not wanted.min <= value <= wanted.max:  # NaN is in no range
        raise ValueError(
            f"{wanted.id} is {_shown(value)}, but must be a {'whole ' * whole}number from "
            f"{wanted.min} to {wanted.max}")


def _require_text(wanted: Any, value: Any) -> None:
    require_given(value, wanted.id, "a text")
    if not isinstance(value, str):
        raise ValueError(f"{wanted.id} is {_shown(value)}, which is no text; connect a text")
    if isinstance(wanted, io.String.Input):
        require_text(value, wanted.id)
    fixed = isinstance(wanted, io.Combo.Input) and not _is_list_of_files(wanted)
    if fixed and value not in wanted.options:
        raise ValueError(
            f"{wanted.id} is {_shown(value)}, but must be one of {', '.join(wanted.options)}")


def _is_list_of_files(wanted: Any) -> bool:
    """Whether the options of a combo come and go with files; those are looked for when loaded."""
    return wanted.default is None


def _require_kind(wanted: Any, value: Any) -> None:
    kind = wanted.get_io_type()
    source, trait = SOURCES[kind]
    if value is None and wanted.optional:
        return
    if value is None and kind == "CLIP":
        raise ValueError(NO_ENCODER)
    require_given(value, kind if kind in ("MODEL", "VAE") else wanted.id, source)
    fits = hasattr(value, trait) if isinstance(trait, str) else isinstance(value, trait)
    if not fits:
        raise ValueError(
            f"the {wanted.id} is of another kind ({type(value).__name__}); connect {source}")
    if kind in SHAPES:
        least, shape = SHAPES[kind]
        if value.ndim < least or 0 in value.shape:
            raise ValueError(
                f"the {wanted.id} has shape {tuple(value.shape)}, but {shape}, is needed; connect "
                f"{source}")


def _shown(value: Any) -> str:
    shown = quoted(repr(value))
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
