"""What the pack asks of a MODEL: its noise schedule, its identity, a copy that has gradients."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..method.data import Conditioning, Trajectory

log = logging.getLogger("stylediffusion")

SAMPLED_TENSORS = 16
SAMPLED_ELEMENTS = 64


def training_alphas(model: ModelPatcher) -> Tensor:
    """alpha-bar fp64 [1000] of a model with discrete epsilon or v prediction.

    Raises ValueError for flow models and other parametrisations.
    """
    sampling = model.get_model_object("model_sampling")
    kinds = comfy.model_sampling
    formula = type(sampling).calculate_denoised
    discrete = isinstance(sampling, kinds.ModelSamplingDiscrete)
    continuous = isinstance(sampling, kinds.ModelSamplingDiscreteEDM)
    known = (kinds.EPS.calculate_denoised, kinds.V_PREDICTION.calculate_denoised)
    if not discrete or continuous or formula not in known or len(sampling.sigmas) != 1000:
        if "model_sampling" in model.object_patches:
            raise ValueError(
                f"another node, such as ModelSamplingDiscrete (lcm), has this MODEL "
                f"({type(model.model).__name__}) sampled as {formula.__qualname__.split('.')[0]}, "
                "for which DDIM inversion is not defined; connect the MODEL from before that node"
            )
        raise ValueError(
            f"this model ({type(model.model).__name__}) does not predict epsilon or v on 1000 "
            "discrete timesteps (it is a flow or distilled model), and DDIM inversion is not "
            "defined for it; load an SD1.x, SD2.x or SDXL checkpoint"
        )
    return 1 / (1 + sampling.sigmas.cpu().double() ** 2)  # no fp64 on some devices


def fingerprint(model: ModelPatcher) -> str:
    """Sixteen hex digits that tell one set of weights and patches from another.

    Hashes sorted weight names and shapes, some elements of some tensors as they were before
    patching; and of the patches keys, strengths and the same of their own tensors. Then how the
    model is sampled and what is put into its modules, where another node changed that.
    """
    digest = hashlib.sha256()
    hash_weights(digest, _unpatched(model))
    parts: dict[str, Tensor] = {}
    for name in sorted(model.patches, key=str):
        strengths = [(patch[0], patch[2]) for patch in model.patches[name]]
        digest.update(f"{name}{strengths}".encode())
        held = [getattr(patch[1], "weights", patch[1]) for patch in model.patches[name]]
        parts |= {f"{name}.{i}": leaf for i, leaf in enumerate(tree_leaves(held))
                if isinstance(leaf, Tensor)}
    sampling = model.object_patches.get("model_sampling")
    if sampling is not None:
        parts["sigmas"] = sampling.sigmas
        digest.update(type(sampling).calculate_denoised.__qualname__.encode())
    hash_weights(digest, parts)
    if model.injections:
        digest.update(f"{sorted(map(str, model.injections))}".encode())
    return digest.hexdigest()[:16]


def _unpatched(model: ModelPatcher) -> dict[str, Tensor]:
    """The UNet's weights before patching. The host's own list of them lacks those of quantised
    layers, which no attribute holds."""
    held = {name: weight for name, weight in model.model_state_dict("diffusion_model.").items()
            if isinstance(weight, Tensor)}
    first = {name: saved.weight for name, saved in model.backup.items() if name in held}
    hooked = {name: saved[0] for name, saved in model.hook_backup.items() if name in held}
    return {**held, **first, **hooked}


def hash_weights(digest: hashlib._Hash, weights: dict[str, Tensor]) -> None:
    """Add sorted names and shapes, and some elements of some tensors, to a digest.

    Of tensors of other kinds also what kind it is; a device is read from once.
    """
    names = sorted(weights)
    for name in names:
        digest.update(f"{name}{tuple(weights[name].shape)}{_kind(weights[name])}".encode())
    chosen = names[:: max(1, math.ceil(len(names) / SAMPLED_TENSORS))]
    for elements in _read([part for name in chosen for part in _sampled(weights[name])]):
        digest.update(elements.numpy().tobytes())


def _kind(weight: Tensor) -> str:
    plain = type(weight) in (Tensor, torch.nn.Parameter)
    return "" if plain else f"{type(weight).__name__}{weight.dtype}"


def _sampled(weight: Tensor) -> list[Tensor]:
    """Some elements as fp32 vectors: of a tensor that is made of others, of each of those.

    Empty where there is no way to look into it: packed and quantised weights are other nodes' own.
    """
    try:
        if hasattr(weight, "__tensor_flatten__"):
            return [elements for name in weight.__tensor_flatten__()[0]
                    for elements in _sampled(getattr(weight, name))]
        if type(weight).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return []
        with torch._C.DisableTorchFunctionSubclass():  # such as GGUF's, which take themselves apart
            flat = torch.Tensor.detach(weight).as_subclass(Tensor).flatten()
            picked = flat[:: max(1, math.ceil(len(flat) / SAMPLED_ELEMENTS))]
            return [] if picked.is_meta else [picked.to(torch.float32)]
    except Exception:
        log.debug("the fingerprint leaves out what a %s holds", type(weight), exc_info=True)
        return []


def _read(parts: list[Tensor]) -> list[Tensor]:
    """Vectors on the CPU, by one copy from each device."""
    vectors: dict[int, Tensor] = {}
    for device in {part.device for part in parts}:
        places = [i for i, part in enumerate(parts) if part.device == device]
        read = torch.cat([parts[i] for i in places]).cpu().split([len(parts[i]) for i in places])
        vectors |= dict(zip(places, read, strict=True))
    return [vectors[i] for i in range(len(parts))]


def require_compatible(model: ModelPatcher, trajectory: Trajectory) -> None:
    """Raise ValueError where a trajectory's latents or prompts cannot be fed to a MODEL."""
    channels = model.get_model_object("latent_format").latent_channels
    width = model.model.model_config.unet_config.get("context_dim")
    made_for = (trajectory.latents.shape[1], trajectory.positive[0][0].shape[-1])
    if made_for != (channels, width):
        raise ValueError(
            f"the trajectory was made with a model of {made_for[0]} latent channels and prompts "
            f"{made_for[1]} wide, but the connected MODEL ({type(model.model).__name__}) has "
            f"{channels} and {width}; connect the checkpoint the picture was inverted with, or "
            "run DDIM Invert with this one"
        )


def require_own_prompts(model: ModelPatcher, *prompts: Conditioning) -> None:
    """Raise ValueError where the CLIP's prompts are of another width than a MODEL's."""
    wanted = model.model.model_config.unet_config.get("context_dim")
    pooled = isinstance(model.model, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner))
    for cross, extra in (prompt[0] for prompt in prompts):
        what = "" if cross.shape[-1] == wanted else f"{cross.shape[-1]} numbers for each token"
        if pooled and not what and extra.get("pooled_output") is None:
            what = "no pooled vector"
        if what:
            raise ValueError(
                f"the CLIP gives {what}, but the MODEL ({type(model.model).__name__}) hears "
                f"{wanted} for each{', and a pooled vector' * pooled}; connect the CLIP of the "
                "same checkpoint"
            )


def warn_if_other(
    model: ModelPatcher, made_with: str, what: str, identity: str | None = None
) -> None:
    """Warn where a MODEL meets a trajectory or embedding that another model made.

    `identity` is the MODEL's fingerprint, where it is known already.
    """
    identity = identity or fingerprint(model)
    if identity != made_with:
        log.warning(
            "%s was made with model %s, but the connected MODEL is %s: another checkpoint or "
            "another LoRA. Connect the same MODEL, or run the earlier nodes again.",
            what, made_with, identity,
        )


def nodes_on(model: ModelPatcher) -> list[str]:
    """The modules of all nodes that put a function on a MODEL."""
    return sorted(set(_modules({**model.model_options, "wrappers": model.wrappers})))


def _modules(held: Any) -> Iterator[str]:
    """The modules of all functions among options, however deep."""
    if isinstance(held, dict):
        held = [*held.values()]
    if isinstance(held, (list, tuple)):
        for part in held:
            yield from _modules(part)
    elif callable(held) and not isinstance(held, (type, torch.Tensor)):
        yield getattr(held, "__module__", None) or type(held).__module__
