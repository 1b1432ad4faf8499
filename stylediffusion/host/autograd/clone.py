"""A copy of a MODEL that has gradients."""

from __future__ import annotations

import copy

import comfy.model_management
import torch

from ..model import ModelPatcher


def differentiable_clone(model: ModelPatcher) -> ModelPatcher:
    """A copy of a MODEL whose weights can take part in autograd; call outside inference mode.

    What a node receives are inference tensors, weights included. Those of the host's plain MODEL
    are copied in memory, else they are read again from its file; where the loader left no way to
    do that, or something is put into the modules, each weight is copied as it is used. Raises
    ValueError where none of these will do.
    """
    reloads = model.cached_patcher_init is not None
    if model.is_dynamic() and not reloads:
        raise ValueError(
            f"this MODEL ({type(model.model).__name__}) streams its weights in, and its loader "
            "left no way to read them again, which learning needs; load the checkpoint with one of "
            "ComfyUI's own loaders, or start ComfyUI with --disable-dynamic-vram"
        )
    if model.injections:
        clone = _sharing(model)
    else:
        clone = _copied(model) if type(model) is ModelPatcher else _read_again(model, reloads)
    if clone.model is not model.model:
        clone.model.requires_grad_(False)  # hosts before 0.27 leave that to whoever learns
    clone.remove_additional_models("multigpu")  # the host runs those without gradients
    for name, weight in clone.model.named_parameters():
        if weight.is_inference():
            clone.add_weight_wrapper(name, torch.clone)
    return clone


def _sharing(model: ModelPatcher) -> ModelPatcher:
    """A clone of the same weights: what is put into modules, as a LoRA in bypass, is not copied."""
    if model.is_dynamic():
        raise ValueError(
            f"{', '.join(map(str, model.injections))} is put into the modules of this MODEL "
            f"({type(model.model).__name__}), which streams its weights in, so learning would not "
            "hear it; load the LoRA with Load LoRA, or start ComfyUI with --disable-dynamic-vram"
        )
    return model.clone()


def _read_again(model: ModelPatcher, reloads: bool) -> ModelPatcher:
    """A clone with weights from the file, where its loader left a way to read it again."""
    if model.is_dynamic() or not reloads:
        return model.clone(disable_dynamic=reloads)
    # As `force_deepcopy` has it, which hosts before 0.24 do not know.
    load, arguments, *place = model.cached_patcher_init
    loaded = load(*arguments, disable_dynamic=True)
    loaded = loaded[place[0]] if place else loaded
    return model.clone(model_override=loaded.get_clone_model_override())


def _copied(model: ModelPatcher) -> ModelPatcher:
    """A clone with weights of its own, as they were before patches were applied to them."""
    if model.load_device.type != "cpu":
        comfy.model_management.free_memory(model.model_size(), model.load_device)
    config = model.model.model_config  # the host's answers for whatever it is asked
    with model.use_ejected():
        held = (model.backup, model.backup_buffers, model.object_patches_backup)
        weights, held, hooked = copy.deepcopy(
            (model.model, held, model.hook_backup), {id(config): config})
        clone = model.clone(model_override=(weights, (*held, set())))
    clone.hook_backup = hooked
    if any((*held, hooked, weights.model_lowvram)):
        clone.unpatch_model(clone.offload_device)
    return clone
