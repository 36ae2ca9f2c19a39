"""How SiMPL learns target tasks: explores them, encodes them, and goes on from the policy that it knows for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import ReplaySampler
from goskill.envs.suite import Suite
from goskill.errors import InputError
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.simpl.exploration import EpisodeEmbeddings
from goskill.methods.simpl.networks import MetaAgent, agent_from_state
from goskill.methods.simpl.settings import AdaptationSettings, TargetSettings, TaskSettings
from goskill.methods.simpl.target_agents import (
    TargetActorLoss,
    TargetAgents,
    TargetCriticLoss,
    target_agents_from_state,
)
from goskill.methods.skill_rl import (
    SkillChoosingPolicy,
    SkillCollector,
    SkillTransitions,
    check_sizes,
    check_suite_name,
    finished_run,
    warn_of_known,
)
from goskill.training import Objective, Phase, Stateful, TrainingSettings
from goskill.training.actor_critic import actor_critic
from goskill.training.placement import replay_buffer

if TYPE_CHECKING:
    from typing_extensions import Self


@register("simpl_ft")
class SiMPLTarget(Method):
    """An agent for each target task, all updated as one batched computation.

    Each begins with ``prior_episodes`` of the unconditioned policy. What they met is encoded, and the policy,
    critics and temperature of the meta-trained agent go on learning with that embedding.

    Args:
        settings: of the method; its ``tasks`` are those learned in.
        agents: with the skills.
        meta: the meta-trained agent, whose encoder is used; None: to act only.
        suite: the environments; None: to act only.
        training: the seed and where data lies are used here.
        workers: processes that step environments.
    """

    Settings: ClassVar[type[Any]] = TargetSettings
    name: ClassVar[str] = "SiMPL"  # for tables
    learned_by: ClassVar[str] = "simpl"  # the method of the run that it goes on from
    shared: ClassVar[type[Any]] = TaskSettings  # whose values are that run's
    learns_in_suite: ClassVar[bool] = True
    needs_store: ClassVar[bool] = False

    def __init__(
        self,
        settings: AdaptationSettings,
        agents: TargetAgents,
        meta: MetaAgent | None = None,
        suite: Suite | None = None,
        training: TrainingSettings | None = None,
        workers: int | None = None,
    ) -> None:
        self.settings, self.agents = settings, agents
        if suite is None or meta is None:
            return
        training = training or TrainingSettings()
        self._meta, self._seed = meta, training.seed
        tasks = list(settings.tasks)
        self.collector = SkillCollector(suite, tasks, agents.skills, settings.discount, self._seed, workers)
        sizes = (settings.capacity, suite.observation_dim, agents.skills.skill_size)
        self.replay = replay_buffer(training, *sizes, tasks=len(tasks))
        self.embeddings = EpisodeEmbeddings(len(tasks), settings.embedding_dim, self._seed)

    @classmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """Agents for the tasks of a suite that begin as the meta-trained one; warns of tasks that it knows."""
        suite = sources.environments()
        if not settings.meta:
            raise InputError(f"meta: expected a run of {cls.learned_by}, got none")
        check_suite_name("meta", settings.meta, sources.suite_name)
        trained, networks = finished_run("meta", settings.meta, cls.learned_by)
        meta = agent_from_state(trained, networks)
        check_sizes("meta", settings.meta, meta.skills, suite)
        shared = {one.name: getattr(trained, one.name) for one in fields(cls.shared) if one.name != "tasks"}
        settings = replace(settings, tasks=tuple(settings.tasks or sources.tasks), **shared)
        warn_of_known(settings.tasks, trained.tasks)
        agents = TargetAgents(settings, meta.skills)
        agents.begin_as(meta)
        return cls(settings, agents, meta, suite, training, sources.workers)

    @classmethod
    def restore(cls, settings: AdaptationSettings, networks: Networks) -> Self:
        """Trained agents, to act."""
        return cls(settings, target_agents_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.agents.parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {
            "replay": self.replay,
            "embeddings": self.embeddings,
            "environments": self.collector,
            "episodes": self.collector.log,
        }

    def policy(self, precision: str = "float32") -> SkillChoosingPolicy:
        """Acts by each agent's mean decision unless it is asked to explore; always in float32."""
        return SkillChoosingPolicy(self.name, self.agents.skills, self.agents.policy_in)

    def phases(self) -> Sequence[Phase]:
        about = "learns tasks from what meta-training learned"
        return [Phase("online", self.settings.iterations, self._begin, about, self._interact)]

    def _begin(self) -> Sequence[Objective]:
        agents, settings = self.agents, self.settings
        self._meta.to(self._device)
        self._agent = agents.agent_of(self.collector.tasks)
        # On the host: each step of the environments depends on it.
        self._known_since: list[int] = agents.known.since.tolist()
        decisions = ReplaySampler(self.replay, settings.batch_size, seed=self._seed)
        trained = [agents.actor, agents.temperature]
        losses = TargetCriticLoss(agents), TargetActorLoss(agents)
        return actor_critic(decisions, agents, *losses, trained, settings.learning_rate)

    def _interact(self, iteration: int) -> Mapping[str, float]:
        """Until a task is known, then as many steps as there should have been before this iteration."""
        return self.collector.advance(lambda: self._goes_on(iteration), self._choose, self._keep)

    def _goes_on(self, iteration: int) -> bool:
        if not self._is_due(iteration):
            return False
        self.embeddings.renew(self.collector.environments.begun, self._is_prior, self._embedding_in)
        return self._is_due(iteration)

    def _is_due(self, iteration: int) -> bool:
        begun = [since for since in self._known_since if since >= 0]
        if not begun:
            return True
        decisions = iteration / self.settings.updates_per_decision
        due = min(begun) + int(decisions * self.collector.model.horizon)
        return self.collector.steps < due

    def _is_prior(self, environment: int, episode: int) -> bool:
        first: int = self.settings.prior_episodes
        return episode <= first

    @torch.inference_mode()
    def _embedding_in(self, environment: int) -> Tensor:
        """That of the environment's task, which is found once, in all that it has met."""
        known = self.agents.known
        if self._known_since[environment] < 0:
            count = int(self.replay.sizes[environment])
            rows = torch.arange(count, device=self.replay.device) + environment * self.settings.capacity
            context = {name: value[None].to(self._device) for name, value in self.replay.gather(rows).items()}
            found = self._meta.encode(context)
            drawn = found.sample() if self.settings.sample_embedding else found.mean
            known.embedding[environment] = drawn[0]
            self._known_since[environment] = self.collector.steps
            known.since[environment] = self.collector.steps
        return known.embedding[environment].cpu()

    @torch.inference_mode()
    def _choose(self, observations: Tensor) -> Tensor:
        embedding = self.embeddings.values.to(self._device)
        return self.agents.policy_with(self._agent, observations, embedding).sample()

    @property
    def _device(self) -> torch.device:
        return self.agents.known.since.device

    def _keep(self, over: SkillTransitions) -> None:
        over.add_to(self.replay, np.arange(len(self.collector.tasks)))
