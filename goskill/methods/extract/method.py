"""How EXTRACT is trained: segments, skills of any length with their priors, agents in environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore, ReplaySampler, VariableSegmentSampler
from goskill.envs.suite import Suite
from goskill.methods.extract.agents import ExtractAgents, agents_from_state
from goskill.methods.extract.losses import ExtractActorLoss, ExtractCriticLoss, ExtractLoss
from goskill.methods.extract.model import ExtractModel
from goskill.methods.extract.segmentation import class_count, label_segments, segments_name
from goskill.methods.extract.settings import ExtractSettings
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.skill_rl import SkillChoosingPolicy, SkillCollector
from goskill.methods.skill_rl.settings import LARGEST_OBSERVATION
from goskill.methods.store_method import normalize_of
from goskill.training import Objective, OptimizerSettings, Phase, Stateful, TrainingSettings
from goskill.training.actor_critic import actor_critic
from goskill.training.placement import replay_buffer, sampled_objective, sampling
from goskill.training.randomness import seeded


@register("extract_action", features="action")
@register("extract_state", features="state")
@register("extract")
class Extract(Method):
    """An agent for each task of a suite, all over the same skills and updated as one batched computation.

    Args:
        settings: of the method; its ``tasks`` are those learned in.
        agents: with the skills.
        store: the episodes that skills are learned from; None: to act only.
        suite: the environments; None: to act only.
        training: seed, threads and where data lies are used here.
        workers: processes that step environments.
    """

    Settings = ExtractSettings
    section: ClassVar[str] = "extract"
    learns_in_suite: ClassVar[bool] = True
    schedule = ("skill_iterations", "iterations")

    def __init__(
        self,
        settings: ExtractSettings,
        agents: ExtractAgents,
        store: EpisodeStore | None = None,
        suite: Suite | None = None,
        training: TrainingSettings | None = None,
        workers: int | None = None,
    ) -> None:
        self.settings, self.agents = settings, agents
        if store is None or suite is None:
            return
        self._store, self._training = store, training or TrainingSettings()
        seed, each = self._training.seed, settings.environments_per_task
        tasks = [task for task in settings.tasks for _ in range(each)]
        self.collector = SkillCollector(suite, tasks, agents.skills, settings.discount, seed, workers)
        sizes = (settings.capacity, suite.observation_dim, agents.skills.skill_size)
        self.replay = replay_buffer(self._training, *sizes, tasks=len(settings.tasks))
        self._agent = np.repeat(np.arange(len(settings.tasks)), each)

    @classmethod
    def create(cls, settings: ExtractSettings, sources: Sources, training: TrainingSettings) -> Extract:
        """New skills of a store, and new agents for the tasks of a suite."""
        store, suite = sources.episodes(), sources.environments()
        tasks = tuple(settings.tasks or sources.tasks)
        settings = replace(settings, tasks=tasks, clusters=class_count(store, settings))
        normalize = normalize_of(store, LARGEST_OBSERVATION)
        with seeded(training.seed):
            agents = ExtractAgents(settings, ExtractModel(settings, normalize, store.action_dim))
        return cls(settings, agents, store, suite, training, sources.workers)

    @classmethod
    def restore(cls, settings: ExtractSettings, networks: Networks) -> Extract:
        """Trained agents, to act."""
        return cls(settings, agents_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.agents.parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"replay": self.replay, "environments": self.collector, "episodes": self.collector.log}

    def policy(self, precision: str = "float32") -> SkillChoosingPolicy:
        """Acts by each agent's likeliest skill unless it is asked to explore; always in float32."""
        name = {"state": "EXTRACT-State", "action": "EXTRACT-Action"}.get(self.settings.features, "EXTRACT")
        return SkillChoosingPolicy(name, self.agents.skills, self.agents.policy_in)

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        return [
            Phase("segments", 0, self._segment, "finds segments of one skill"),
            Phase("skills", settings.skill_iterations, self._begin_skills, "learns skills and their priors"),
            Phase("start", 0, self._start, "actors begin as the priors"),
            Phase(
                "online",
                settings.iterations,
                self._begin_online,
                "learns in environments to choose skills",
                self._interact,
            ),
        ]

    def _segment(self) -> Sequence[Objective]:
        label_segments(self._store, self.settings, self._training.seed)
        return []

    def _begin_skills(self) -> Sequence[Objective]:
        model, settings = self.agents.skills, self.settings
        segments = VariableSegmentSampler(
            self._store,
            segments_name(settings, self._training.seed),
            settings.longest,
            settings.skill_batch_size,
            **sampling(self._training, self._store),
        )
        trained = [model.encoder, model.decoder, model.choice_prior, model.argument_prior]
        objective = sampled_objective("skills", segments, ExtractLoss(model), trained)
        objective.optimizer = OptimizerSettings(settings.skill_learning_rate, "adamw", gradient_clip=1.0)
        return [objective]

    def _start(self) -> Sequence[Objective]:
        self.agents.begin_as_priors()
        return []

    def _begin_online(self) -> Sequence[Objective]:
        agents, settings = self.agents, self.settings
        self._policy = agents.policy_in(self.collector.tasks)
        decisions = ReplaySampler(self.replay, settings.batch_size, seed=self._training.seed)
        trained = [agents.choice_actor, agents.argument_actor]
        return actor_critic(
            decisions,
            ExtractCriticLoss(agents),
            agents.critic,
            agents.target,
            ExtractActorLoss(agents),
            trained,
            settings.learning_rate,
        )

    def _interact(self, iteration: int) -> Mapping[str, float]:
        """As many steps as there should have been before this iteration."""
        due = self.settings.warmup_steps + iteration * self.settings.steps_per_update
        return self.collector.advance(due, self._choose, self.replay, self._agent)

    @torch.inference_mode()
    def _choose(self, observations: Tensor) -> Tensor:
        return self._policy(observations).sample()
