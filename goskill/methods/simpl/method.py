"""How SiMPL is meta-trained: episodes of all training tasks side by side, updates over several tasks at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import ReplaySampler
from goskill.envs.suite import Suite
from goskill.errors import InputError
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.simpl.acting import UnconditionedPolicy
from goskill.methods.simpl.decisions import SingleActions
from goskill.methods.simpl.exploration import EpisodeEmbeddings
from goskill.methods.simpl.losses import MetaLoss
from goskill.methods.simpl.networks import MetaAgent, agent_from_state
from goskill.methods.simpl.sampling import TaskSampler, check_tasks_per_step
from goskill.methods.simpl.settings import MetaSettings, SiMPLSettings
from goskill.methods.skill_rl import (
    SkillCollector,
    SkillModel,
    SkillTransitions,
    check_suite_name,
    skills_of_run,
)
from goskill.training import Objective, OptimizerSettings, Phase, Stateful, TrainingSettings
from goskill.training.placement import replay_buffer, sampled_objective
from goskill.training.randomness import seeded

if TYPE_CHECKING:
    from typing_extensions import Self


@register("simpl")
class SiMPL(Method):
    """One agent for all training tasks of a suite, given embeddings that a task encoder finds in decisions.

    A subclass that decides on something else than skills overrides ``_skills``.

    Args:
        settings: of the method; its ``tasks`` are those trained on.
        agent: with the skills.
        suite: the environments; None: to act only.
        training: the seed and where data lies are used here.
        workers: processes that step environments.
    """

    Settings: ClassVar[type[Any]] = SiMPLSettings
    name: ClassVar[str] = "SiMPL"  # for tables
    learns_in_suite: ClassVar[bool] = True
    needs_store: ClassVar[bool] = False

    def __init__(
        self,
        settings: MetaSettings,
        agent: MetaAgent,
        suite: Suite | None = None,
        training: TrainingSettings | None = None,
        workers: int | None = None,
    ) -> None:
        self.settings, self.agent = settings, agent
        if suite is None:
            return
        training = training or TrainingSettings()
        self._seed, each = training.seed, settings.environments_per_task
        tasks = [task for task in settings.tasks for _ in range(each)]
        self.collector = SkillCollector(suite, tasks, agent.skills, settings.discount, self._seed, workers)
        sizes = (settings.capacity, suite.observation_dim, agent.skills.skill_size)
        self.replay = replay_buffer(training, *sizes, tasks=len(settings.tasks))
        self.contexts = replay_buffer(training, *sizes, tasks=len(settings.tasks))
        self.embeddings = EpisodeEmbeddings(len(tasks), settings.embedding_dim, self._seed)
        self._task = np.repeat(np.arange(len(settings.tasks)), each)

    @classmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """A new agent for the tasks of a suite, over the skills of a run."""
        suite = sources.environments()
        settings = replace(settings, tasks=tuple(settings.tasks or sources.tasks))
        settings, skills = cls._skills(settings, sources)
        check_tasks_per_step(settings, settings.tasks)
        with seeded(training.seed):
            agent = MetaAgent(settings, skills)
        return cls(settings, agent, suite, training, sources.workers)

    @classmethod
    def _skills(cls, settings: Any, sources: Sources) -> tuple[Any, SkillModel | SingleActions]:
        """What is decided on, and the settings with what that decides of them."""
        if not settings.skills:
            raise InputError("skills: expected a run of skills such as skill_prior's, got none")
        check_suite_name("skills", settings.skills, sources.suite_name)
        found = skills_of_run(settings.skills, sources.environments())
        return replace(settings, **found.settings), found.model

    @classmethod
    def restore(cls, settings: MetaSettings, networks: Networks) -> Self:
        """A trained agent, to act."""
        return cls(settings, agent_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.agent.parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {
            "replay": self.replay,
            "contexts": self.contexts,
            "embeddings": self.embeddings,
            "environments": self.collector,
            "episodes": self.collector.log,
        }

    def policy(self, precision: str = "float32") -> UnconditionedPolicy:
        """Explores any task by embeddings drawn from N(0, 1); always in float32. Fine-tuning learns a task."""
        return UnconditionedPolicy(self.name, self.agent)

    def phases(self) -> Sequence[Phase]:
        about = "learns over tasks how to learn one"
        return [Phase("meta-training", self.settings.iterations, self._begin, about, self._interact)]

    def _begin(self) -> Sequence[Objective]:
        agent, settings = self.agent, self.settings
        batches = TaskSampler(self.replay, self.contexts, settings, settings.tasks, self._seed)
        trained = [agent.encoder, agent.policy_network, agent.critic, agent.temperature]
        if agent.embedding_weights is not None:
            trained.append(agent.embedding_weights)
        adam = OptimizerSettings(settings.learning_rate, "adam")
        return [
            sampled_objective(
                "meta", batches, MetaLoss(agent), trained, optimizer=adam, after=agent.target.update
            )
        ]

    def _interact(self, iteration: int) -> Mapping[str, float]:
        """As many steps as there should have been before this iteration."""
        decisions = self.settings.warmup_decisions + iteration / self.settings.updates_per_decision
        due = int(decisions * self.collector.model.horizon)
        return self.collector.advance(lambda: self._goes_on(due), self._choose, self._keep)

    def _goes_on(self, due: int) -> bool:
        if self.collector.steps >= due:
            return False
        self.embeddings.renew(self.collector.environments.begun, self._is_prior, self._embedding_in)
        return True

    def _is_prior(self, environment: int, episode: int) -> bool:
        every: int = self.settings.prior_every
        return (episode - 1) % every == 0

    @torch.inference_mode()
    def _embedding_in(self, environment: int) -> Tensor:
        """Drawn from the posterior of a large context of the environment's task."""
        task, settings = int(self._task[environment]), self.settings
        key = [self._seed, environment, self.collector.steps]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        context = ReplaySampler(self.contexts, settings.large_context, tasks=[task], seed=seed).batch(0)
        on_device = {name: value.to(self._device) for name, value in context.items()}
        return self.agent.encode(on_device).sample()[0].cpu()

    @torch.inference_mode()
    def _choose(self, observations: Tensor) -> Tensor:
        return self.agent.policy(observations, self.embeddings.values.to(self._device)).sample()

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.agent.temperature.log_value.device
        return device

    def _keep(self, over: SkillTransitions) -> None:
        """Into the buffers of their tasks; contexts are of episodes such as a new task will begin with."""
        over.add_to(self.replay, self._task)
        over.add_to(self.contexts, self._task, self.embeddings.from_prior[over.rows])
