"""What is asked of a sampling run, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from ...method.data import Embedding, Trajectory, require_own_embedding
from ...method.prompt_to_prompt import Control
from ..model import ModelPatcher, fingerprint, require_compatible, warn_if_other

USUAL_GUIDANCE = 7.5


@dataclass(frozen=True)
class Edit:
    """A batch to be sampled: row 0 the source of a trajectory, one more row for each target.

    `guidance` 0 means as learnt, else 7.5. `exact_source` sets row 0 to the trajectory after every
    step (direct inversion, Ju et al. 2023). Raises ValueError where the parts do not belong
    together.
    """

    model: ModelPatcher
    trajectory: Trajectory
    embedding: Embedding | None = None
    control: Control | None = None
    guidance: float = 0.0
    exact_source: bool = False

    def __post_init__(self) -> None:
        if self.embedding is not None:
            require_own_embedding(self.trajectory, self.embedding)
        if self.control is not None:
            _require_own_control(self.trajectory, self.control)
        require_compatible(self.model, self.trajectory)

    @property
    def cfg(self) -> float:
        """The guidance to sample with."""
        if self.guidance != 0:
            return self.guidance
        return USUAL_GUIDANCE if self.embedding is None else self.embedding.guidance

    def warn_of_other_models(self) -> None:
        """A line in the log for each part that another model made."""
        identity = fingerprint(self.model)
        warn_if_other(self.model, self.trajectory.fingerprint, "the trajectory", identity)
        if self.embedding is not None:
            warn_if_other(self.model, self.embedding.fingerprint, f"the {self.embedding.kind}",
                          identity)


def _require_own_control(trajectory: Trajectory, control: Control) -> None:
    """Raise ValueError for another prompt's control, or masks painted for another size."""
    if control.source_prompt != trajectory.prompt:
        raise ValueError(
            f"the control was made for the prompt '{control.source_prompt}', but the trajectory "
            f"was inverted with '{trajectory.prompt}'; connect the same trajectory to P2Plus "
            "Controller and Sample"
        )
    size = trajectory.latents.shape[-2:]
    for target in control.targets:
        if target.mask is not None and target.mask.shape != size:
            painted = " x ".join(map(str, reversed(target.mask.shape)))
            raise ValueError(
                f"the control's mask was painted for a latent of {painted}, but the "
                f"trajectory's are {size[1]} x {size[0]}; connect the same trajectory to "
                "P2Plus Controller and Sample"
            )
