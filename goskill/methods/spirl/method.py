"""How SPiRL is trained: skills from episodes, then soft actor-critic over them in environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore, ReplaySampler
from goskill.envs.suite import Suite
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.skill_rl import (
    OnlineSettings,
    SkillActorLoss,
    SkillAgents,
    SkillChoosingPolicy,
    SkillCollector,
    SkillCriticLoss,
    agents_from_state,
    new_model,
    skills_of_run,
    skills_phase,
)
from goskill.training import Objective, Phase, Stateful, TrainingSettings
from goskill.training.actor_critic import actor_critic
from goskill.training.placement import replay_buffer
from goskill.training.randomness import seeded

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class SPiRLSettings(OnlineSettings):
    """Settings of skills, agents, losses and schedule. Raises InputError that names the setting."""


@register("spirl")
class SPiRL(Method):
    """An agent for each task of a suite, all over the same skills and updated as one batched computation.

    Args:
        settings: of the method; its ``tasks`` are those learned in.
        agents: with the skills.
        store: the episodes that skills are learned from; None: the skills are trained.
        suite: the environments; None: to act only.
        training: seed, threads and where data lies are used here.
        workers: processes that step environments.
    """

    Settings: ClassVar[type[Any]] = SPiRLSettings
    learns_in_suite: ClassVar[bool] = True
    needs_store: ClassVar[bool] = False
    schedule: ClassVar[tuple[str, ...]] = ("skill_iterations", "iterations")

    def __init__(
        self,
        settings: SPiRLSettings,
        agents: SkillAgents,
        store: EpisodeStore | None = None,
        suite: Suite | None = None,
        training: TrainingSettings | None = None,
        workers: int | None = None,
    ) -> None:
        self.settings, self.agents, self._store = settings, agents, store
        if suite is None:
            return
        self._training = training or TrainingSettings()
        seed, each = self._training.seed, settings.environments_per_task
        tasks = [task for task in settings.tasks for _ in range(each)]
        self.collector = SkillCollector(suite, tasks, agents.skills, settings.discount, seed, workers)
        sizes = (settings.capacity, suite.observation_dim, settings.skill_dim)
        self.replay = replay_buffer(self._training, *sizes, tasks=len(settings.tasks))
        self._agent = np.repeat(np.arange(len(settings.tasks)), each)

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

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.agents.parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"replay": self.replay, "environments": self.collector, "episodes": self.collector.log}

    def policy(self, precision: str = "float32") -> SkillChoosingPolicy:
        """Acts by each agent's mean skill unless it is asked to explore; always in float32."""

        return SkillChoosingPolicy("SPiRL", self.agents.skills, self.agents.policy_in)

    def phases(self) -> Sequence[Phase]:
        first = [] if self._store is None else [skills_phase(self.agents.skills, self._store, self._training)]
        start = Phase("start", 0, self._start, "actors begin as the prior")
        about = "learns in environments to choose skills"
        return [*first, start, Phase("online", self.settings.iterations, self._begin, about, self._interact)]

    def _start(self) -> Sequence[Objective]:
        self.agents.begin_as_prior()
        return []

    def _begin(self) -> Sequence[Objective]:
        agents, settings = self.agents, self.settings
        self._policy = agents.policy_in(self.collector.tasks)
        decisions = ReplaySampler(self.replay, settings.batch_size, seed=self._training.seed)
        trained = [agents.actor, agents.temperature]
        return actor_critic(
            decisions,
            SkillCriticLoss(agents),
            agents.critic,
            agents.target,
            SkillActorLoss(agents),
            trained,
            settings.learning_rate,
        )

    def _interact(self, iteration: int) -> Mapping[str, float]:
        """As many steps as there should have been before this iteration."""
        settings = self.settings
        decisions = settings.warmup_decisions + iteration / settings.updates_per_decision
        due = int(decisions * settings.horizon)
        return self.collector.advance(due, self._choose, self.replay, self._agent)

    @torch.inference_mode()
    def _choose(self, observations: Tensor) -> Tensor:
        return self._policy(observations).sample()
