"""How SPiRL is trained: skills from episodes, then soft actor-critic over them in environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from goskill.methods.method import Networks, Sources
from goskill.methods.registry import register
from goskill.methods.skill_rl import (
    OnlineSettings,
    OnlineSkills,
    SkillActorLoss,
    SkillAgents,
    SkillChoosingPolicy,
    SkillCriticLoss,
    agents_from_state,
    new_model,
    skills_of_run,
    skills_phase,
)
from goskill.training import Objective, Phase, TrainingSettings
from goskill.training.randomness import seeded

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class SPiRLSettings(OnlineSettings):
    """Settings of skills, agents, losses and schedule. Raises InputError that names the setting."""


@register("spirl")
class SPiRL(OnlineSkills):
    """SPiRL; arguments are those of ``OnlineSkills``."""

    Settings: ClassVar[type[Any]] = SPiRLSettings
    needs_store: ClassVar[bool] = False
    settings: SPiRLSettings
    agents: SkillAgents

    @classmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """New agents for the tasks of a suite, over the skills of a run or of new ones to learn from a store."""
        suite = sources.environments()
        settings = replace(settings, tasks=tuple(settings.tasks or sources.tasks))
        if settings.skills:
            found = skills_of_run(settings.skills, suite)
            settings = replace(settings, **found.settings)
            store, model = None, found.model
        else:
            store = sources.episodes()
            model = new_model(settings, store, training.seed)
        with seeded(training.seed):
            agents = SkillAgents(settings, model)
        return cls(settings, agents, store, suite, training, sources.workers)

    @classmethod
    def restore(cls, settings: Any, networks: Networks) -> Self:
        """Trained agents, to act."""
        return cls(settings, agents_from_state(settings, networks))

    def policy(self, precision: str = "float32") -> SkillChoosingPolicy:
        """Acts by each agent's mean skill unless it is asked to explore; always in float32."""

        return SkillChoosingPolicy("SPiRL", self.agents.skills, self.agents.policy_in)

    def phases(self) -> Sequence[Phase]:
        first = [] if self._store is None else [skills_phase(self.agents.skills, self._store, self._training)]
        start = Phase("start", 0, self._start, "actors begin as the prior")
        return [*first, start, self.online_phase()]

    def _start(self) -> Sequence[Objective]:
        self.agents.begin_as_prior()
        return []

    def losses(self) -> tuple[nn.Module, nn.Module]:
        return SkillCriticLoss(self.agents), SkillActorLoss(self.agents)

    def actors(self) -> Sequence[nn.Module]:
        return [self.agents.actor, self.agents.temperature]

    def due(self, iteration: int) -> int:
        decisions = self.settings.warmup_decisions + iteration / self.settings.updates_per_decision
        return int(decisions * self.settings.horizon)
