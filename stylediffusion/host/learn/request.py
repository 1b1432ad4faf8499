"""What a person may choose for learning."""

from __future__ import annotations

from dataclasses import dataclass

from ...method.adam import AdamSchedule
from ...method.data import PROMPT_BRANCHES, VALUE_EMBEDDING
from ...method.learning import LearningSettings
from ...method.quasi_newton import QuasiNewtonSchedule
from ...method.value_embedding import PLAIN, SCALE_AND_SHIFT


@dataclass(frozen=True)
class LearningRequest:
    """Settings, the schedule, whose kind says the solver, M's form and seed, and what is learnt."""

    settings: LearningSettings = LearningSettings()
    schedule: AdamSchedule | QuasiNewtonSchedule = QuasiNewtonSchedule()
    form: str = SCALE_AND_SHIFT
    seed: int = 0
    kind: str = VALUE_EMBEDDING

    @property
    def attends(self) -> bool:
        """Whether attention maps are held, too."""
        return self.settings.attention_weight > 0

    @property
    def prompt_branch(self) -> int | None:
        """The branch that a prompt embedding is learnt for; None for a value embedding."""
        return PROMPT_BRANCHES.get(self.kind)


def prompt_request(
    kind: str, guidance: float, inner_steps: int, learning_rate: float
) -> LearningRequest:
    """That of Learn Prompt Embedding: at most so many updates at every step, the rest as released.
    """
    schedule = AdamSchedule(
        inner_steps=inner_steps, inner_decay=0.0, learning_rate=learning_rate)
    return LearningRequest(LearningSettings(guidance, 0.0), schedule, PLAIN, kind=kind)
