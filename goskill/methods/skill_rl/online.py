"""How methods are trained whose agents choose among skills in environments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore, ReplaySampler
from goskill.envs.suite import Suite
from goskill.methods.method import Method
from goskill.methods.skill_rl.collecting import SkillCollector, SkillTransitions
from goskill.training import Objective, Phase, Stateful, TrainingSettings
from goskill.training.actor_critic import actor_critic
from goskill.training.placement import replay_buffer


class OnlineSkills(Method):
    """An agent for each task of a suite, all over the same skills and updated as one batched computation.

    Args:
        settings: of the method; its ``tasks`` are those learned in.
        agents: with the skills.
        store: the episodes that skills are learned from; None: the skills are trained.
        suite: the environments; None: to act only.
        training: seed, threads and where data lies are used here.
        workers: processes that step environments.
    """

    learns_in_suite: ClassVar[bool] = True
    schedule: ClassVar[tuple[str, ...]] = ("skill_iterations", "iterations")

    def __init__(
        self,
        settings: Any,
        agents: Any,
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
        sizes = (settings.capacity, suite.observation_dim, agents.skills.skill_size)
        self.replay = replay_buffer(self._training, *sizes, tasks=len(settings.tasks))
        self._agent = np.repeat(np.arange(len(settings.tasks)), each)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        parts: Mapping[str, nn.Module] = self.agents.parts
        return parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"replay": self.replay, "environments": self.collector, "episodes": self.collector.log}

    @abstractmethod
    def due(self, iteration: int) -> float:
        """How many steps each environment should have taken before an iteration of the online phase."""

    @abstractmethod
    def losses(self) -> tuple[nn.Module, nn.Module]:
        """Of the critics and of the actors."""

    @abstractmethod
    def actors(self) -> Sequence[nn.Module]:
        """What the actors' loss trains."""

    def online_phase(self) -> Phase:
        """Environments are stepped, and all agents updated."""
        about = "learns in environments to choose skills"
        return Phase("online", self.settings.iterations, self._begin_online, about, self._interact)

    def _begin_online(self) -> Sequence[Objective]:
        self._policy = self.agents.policy_in(self.collector.tasks)
        decisions = ReplaySampler(self.replay, self.settings.batch_size, seed=self._training.seed)
        return actor_critic(
            decisions, self.agents, *self.losses(), self.actors(), self.settings.learning_rate
        )

    def _interact(self, iteration: int) -> Mapping[str, float]:
        due = self.due(iteration)
        return self.collector.advance(lambda: self.collector.steps < due, self._choose, self._keep)

    def _keep(self, over: SkillTransitions) -> None:
        over.add_to(self.replay, self._agent)

    @torch.inference_mode()
    def _choose(self, observations: Tensor) -> Tensor:
        chosen: Tensor = self._policy(observations).sample()
        return chosen
