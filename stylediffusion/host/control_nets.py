"""A ControlNet and its hint beside a trajectory, where every later run finds them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from comfy.controlnet import ControlBase
from einops import rearrange
from torch import Tensor

from ..method.data import Conditioning, Trajectory
from .attention import with_patch
from .inputs import pictures_of
from .model import hash_weights

SKIP_PATCH = "input_block_patch_after_skip"


@dataclass(frozen=True)
class ControlledTrajectory(Trajectory):
    """A trajectory walked under a ControlNet, which holds its hint and strength.

    Its conditioning, as every trajectory's, is plain data: `under` puts the ControlNet into it.
    `control_identity` was read before any run, which may leave the model's parts in it.
    """

    control_net: ControlBase
    control_identity: str


class FrozenControlNet(ControlBase):
    """A ControlNet that gives autograd constants: nothing that is learnt feeds into it.

    So for the same latent, level and prompt its last answer is given again. What it stands before
    is loaded, started and cleaned by the host, as in any chain.
    """

    sigmas: Tensor | None = None
    asked: Any = None
    answer: dict[str, list[Tensor | None]] | None = None

    def __init__(self, control_net: ControlBase) -> None:
        super().__init__()
        self.set_previous_controlnet(control_net)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int,
        transformer_options: dict[str, Any],
    ) -> Any:
        """What the ControlNet gives, without a graph, in lists of its own: the host empties them.

        `HostLearningModel` gives the very same tensor as `sigmas` as long as it stands at a latent.
        """
        sigmas = transformer_options["sigmas"]
        asked = tuple(transformer_options["uuids"]), batched_number, x_noisy.shape
        if self.sigmas is not sigmas or self.asked != asked:
            with torch.no_grad():
                self.answer = self.previous_controlnet.get_control(
                    x_noisy, t, cond, batched_number, transformer_options)
            self.sigmas, self.asked = sigmas, asked
        return self.answer and {place: list(tensors) for place, tensors in self.answer.items()}

    def forget(self) -> None:
        """Let go of the last answer."""
        self.sigmas = self.asked = self.answer = None


def with_copied_skips(model_options: dict[str, Any]) -> dict[str, Any]:
    """A copy of model options under which a ControlNet can be learnt through.

    The host adds it to the skip connections in place, after the encoder has kept them for its
    backward pass; so each is copied before the next block sees it.
    """
    return with_patch(model_options, SKIP_PATCH, lambda h, _: h.clone())


def with_hint(
    control_net: ControlBase | None, image: Tensor | None, strength: float
) -> ControlBase | None:
    """A copy of a ControlNet with its hint [1, H, W, 3]; None where nothing is to be controlled.

    A grey hint is taken as three equal colours, and transparency is left out. Raises ValueError
    where one of the two is missing, for several hints, and for a ControlNet of models with other
    latents.
    """
    if control_net is None and image is None:
        return None
    if control_net is None or image is None:
        missing = "control_net" if control_net is None else "control_image"
        raise ValueError(
            f"{missing} is not connected; connect both control_net and control_image, or none")
    image = _hint(image)
    if control_net.latent_format is not None:
        raise ValueError(
            f"control_net ({type(control_net).__name__}) is made for another kind of model, such "
            "as SD3 or Flux; load a ControlNet for the SD1.x, SD2.x or SDXL checkpoint you use"
        )
    if strength == 0:
        return None
    return control_net.copy().set_cond_hint(rearrange(image, "b h w c -> b c h w"), strength)


def _hint(image: Tensor) -> Tensor:
    """A hint's colours [1, H, W, 3]."""
    if image.ndim == 3:
        image = image[..., None]
    if image.shape[-1] == 1:
        image = image.expand(*image.shape[:-1], 3)
    image = pictures_of(image, "control_image", "Load Image")[..., :3]
    if len(image) > 1:
        raise ValueError(
            f"control_image holds {len(image)} pictures, but one is inverted; pick its hint with "
            "ImageFromBatch"
        )
    return image


def under(control_net: ControlBase | None, conditioning: Conditioning) -> Conditioning:
    """Conditioning under a ControlNet, as the host's ControlNetApplyAdvanced makes it."""
    if control_net is None:
        return conditioning
    return [(tensor, {**extra, "control": control_net, "control_apply_to_uncond": False})
            for tensor, extra in conditioning]


def control_net_of(trajectory: Trajectory) -> ControlBase | None:
    """The ControlNet that a trajectory was walked under, if any."""
    return trajectory.control_net if isinstance(trajectory, ControlledTrajectory) else None


def control_identity_of(trajectory: Trajectory) -> str | None:
    """What tells the ControlNet that a trajectory was walked under from another; None without."""
    return (
        trajectory.control_identity if isinstance(trajectory, ControlledTrajectory) else None)


def identity(control_net: ControlBase) -> str:
    """Digits that tell a ControlNet with its hint and strength from another."""
    settings = control_net.strength, sorted(control_net.extra_args.items())
    digest = hashlib.sha256(f"{type(control_net).__name__}{settings}".encode())
    hint = control_net.cond_hint_original
    digest.update(f"{tuple(hint.shape)}".encode())
    digest.update(hint.to("cpu", torch.float32).numpy().tobytes())
    hash_weights(digest, _weights(control_net))
    return digest.hexdigest()


def _weights(control_net: ControlBase) -> dict[str, Tensor]:
    """Every weight, wherever a ControlNet of its kind keeps them."""
    held = (value.state_dict() if isinstance(value, torch.nn.Module) else value
            for value in vars(control_net).values())
    return {name: tensor for values in held if isinstance(values, dict)
            for name, tensor in values.items() if isinstance(tensor, Tensor)}
