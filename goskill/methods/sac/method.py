"""How soft actor-critic is trained: environments step, transitions go into the replay buffer, all agents update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from goskill.data import ReplayBuffer, ReplaySampler
from goskill.envs.suite import Suite
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.sac.acting import SACPolicy
from goskill.methods.sac.losses import ActorLoss, CriticLoss
from goskill.methods.sac.networks import SACNetworks, networks_from_state
from goskill.methods.sac.settings import SACSettings
from goskill.rollouts.collector import Collector, Steps
from goskill.rollouts.episode_log import EpisodeLog
from goskill.training import Objective, OptimizerSettings, Phase, Stateful, TrainingSettings


@register("sac")
class SAC(Method):
    """An agent for each task of a suite, all updated as one batched computation.

    Args:
        settings: of the method; its ``tasks`` are those learned in.
        networks: of the agents.
        suite: the environments; None: to act only.
        training: the seed is used here.
        workers: processes that step environments.
    """

    Settings = SACSettings
    learns_in_suite: ClassVar[bool] = True
    needs_store: ClassVar[bool] = False

    def __init__(
        self,
        settings: SACSettings,
        networks: SACNetworks,
        suite: Suite | None = None,
        training: TrainingSettings | None = None,
        workers: int | None = None,
    ) -> None:
        self.settings, self.networks = settings, networks
        if suite is None:
            return
        seed = (training or TrainingSettings()).seed
        self._seed = seed
        tasks = [task for task in settings.tasks for _ in range(settings.environments_per_task)]
        self.collector = Collector(suite, tasks, seed, workers)
        self.log = EpisodeLog(tasks)
        low, high = suite.action_space.low, suite.action_space.high
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self.replay = ReplayBuffer(
            settings.capacity, suite.observation_dim, suite.action_dim, tasks=len(settings.tasks)
        )
        self._agent = np.repeat(np.arange(len(settings.tasks)), settings.environments_per_task)

    @classmethod
    def create(cls, settings: SACSettings, sources: Sources, training: TrainingSettings) -> SAC:
        """New agents for the tasks of a suite."""
        suite = sources.environments()
        settings = replace(settings, tasks=tuple(settings.tasks or sources.tasks))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            networks = SACNetworks(settings, suite.observation_dim, suite.action_dim)
        return cls(settings, networks, suite, training, sources.workers)

    @classmethod
    def restore(cls, settings: SACSettings, networks: Networks) -> SAC:
        """Trained agents, to act."""
        return cls(settings, networks_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.networks.parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"replay": self.replay, "environments": self.collector, "episodes": self.log}

    def policy(self, precision: str = "float32") -> SACPolicy:
        """Acts deterministically unless it is asked to explore; always in float32."""
        return SACPolicy(self.networks)

    def phases(self) -> Sequence[Phase]:
        about = "learns in environments"
        return [Phase("learning", self.settings.iterations, self._begin, about, self._interact)]

    def _begin(self) -> Sequence[Objective]:
        networks, settings = self.networks, self.settings
        self._actor = SACPolicy(networks)
        self._actor.reset(self.collector.tasks)
        adam = OptimizerSettings(settings.learning_rate, "adam")
        transitions = ReplaySampler(self.replay, settings.batch_size, seed=self._seed)
        trained = [networks.actor, networks.temperature]
        return [
            Objective(
                "critic",
                transitions,
                CriticLoss(networks),
                [networks.critic],
                optimizer=adam,
                after=networks.target.update,
            ),
            Objective("actor", "critic", ActorLoss(networks), trained, optimizer=adam),
        ]

    def _interact(self, iteration: int) -> Mapping[str, float]:
        """As many steps as there should have been before this iteration."""
        due = self.settings.warmup_steps + int(iteration / self.settings.updates_per_step)
        self.collector.start()
        found: dict[str, list[float]] = {}
        while self.collector.steps < due:
            explored = self._explore()
            step, _ = self.collector.step((self._middle + self._half * explored).astype(np.float32))
            self._keep(step, explored)
            for name, value in self.log.add(step).items():
                found.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in found.items()}
        return {**means, "steps": float(self.collector.steps * len(self.collector.tasks))}

    def _explore(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Actions in [-1, 1]: uniform at first, then samples of the actor."""
        if self.collector.steps < self.settings.warmup_steps:
            size = (len(self.collector.tasks), self.networks.action_dim)
            random = np.random.Generator(np.random.Philox(key=[self._seed, self.collector.steps]))
            return random.uniform(-1, 1, size).astype(np.float32)
        actions: np.ndarray[tuple[int, int], np.dtype[np.float32]] = self._actor.act(
            self.collector.observations, explore=True
        )
        return actions

    def _keep(self, step: Steps, actions: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        self.replay.add(
            observations=step.observations,
            actions=actions,
            rewards=step.rewards,
            next_observations=step.next_observations,
            terminated=step.terminated,
            task=self._agent,
        )
