"""How soft actor-critic is trained: environments step, transitions go into the replay buffer, all agents update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

import goskill
from goskill.data import EpisodeStore, ReplaySampler, SegmentSampler
from goskill.envs.suite import Suite
from goskill.errors import InputError
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.sac.acting import SACPolicy
from goskill.methods.sac.experience import Experience
from goskill.methods.sac.losses import ActorLoss, CloningLoss, CriticLoss
from goskill.methods.sac.networks import SACNetworks, networks_from_state
from goskill.methods.sac.settings import SACSettings
from goskill.rollouts.collector import Collector, Steps
from goskill.rollouts.episode_log import EpisodeLog
from goskill.training import Objective, OptimizerSettings, Phase, Stateful, TrainingSettings, distributed
from goskill.training.actor_critic import actor_critic
from goskill.training.placement import replay_buffer, sampled_objective, sampling
from goskill.training.randomness import seeded

EXPERIENCE = "experience"  # the store's name in the folder


@register("bc_sac", cloning=True)
@register("sac")
class SAC(Method):
    """An agent for each task of a suite, all updated as one batched computation.

    Args:
        settings: of the method; its ``tasks`` are those learned in.
        networks: of the agents.
        suite: the environments; None: to act only.
        training: the seed and where the data lies are used here.
        workers: processes that step environments.
        store: the episodes that actors begin by imitating, with ``settings.cloning``.
        folder: where ``settings.keep_experience`` keeps every episode, in the store ``experience``.

    Raises InputError for experience to keep without a folder.
    """

    Settings = SACSettings
    section: ClassVar[str] = "sac"
    schedule = ("cloning_iterations", "iterations")
    learns_in_suite: ClassVar[bool] = True
    needs_store: ClassVar[bool] = False

    def __init__(
        self,
        settings: SACSettings,
        networks: SACNetworks,
        suite: Suite | None = None,
        training: TrainingSettings | None = None,
        workers: int | None = None,
        store: EpisodeStore | None = None,
        folder: Path | None = None,
    ) -> None:
        self.settings, self.networks, self._store = settings, networks, store
        if suite is None:
            return
        if settings.keep_experience and folder is None:
            raise InputError("keep_experience: expected a folder to keep it in, got none")
        self._training = training or TrainingSettings()
        self._seed = seed = self._training.seed
        tasks = [task for task in settings.tasks for _ in range(settings.environments_per_task)]
        self.collector = Collector(suite, tasks, seed, workers)
        self.log = EpisodeLog(tasks)
        low, high = suite.action_space.low, suite.action_space.high
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        sizes = suite.observation_dim, suite.action_dim
        agents = len(settings.tasks)
        self.replay = replay_buffer(self._training, settings.capacity, *sizes, tasks=agents)
        self.experience: Experience | None = None
        if settings.keep_experience and folder is not None:
            about = _provenance(suite, settings, seed)
            self.experience = Experience(folder / EXPERIENCE, sizes, tasks, about)
        self._agent = np.repeat(np.arange(len(settings.tasks)), settings.environments_per_task)

    @classmethod
    def create(cls, settings: SACSettings, sources: Sources, training: TrainingSettings) -> SAC:
        """New agents for the tasks of a suite."""
        suite = sources.environments()
        store = sources.episodes() if settings.cloning else None
        settings = replace(settings, tasks=tuple(settings.tasks or sources.tasks))
        with seeded(training.seed):
            networks = SACNetworks(settings, suite.observation_dim, suite.action_dim)
        return cls(settings, networks, suite, training, sources.workers, store, sources.folder)

    @classmethod
    def restore(cls, settings: SACSettings, networks: Networks) -> SAC:
        """Trained agents, to act."""
        return cls(settings, networks_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.networks.parts

    @property
    def state(self) -> Mapping[str, Stateful]:
        kept = {} if self.experience is None else {"experience": self.experience}
        return {"replay": self.replay, "environments": self.collector, "episodes": self.log, **kept}

    def policy(self, precision: str = "float32") -> SACPolicy:
        """Acts deterministically unless it is asked to explore; always in float32."""
        return SACPolicy(self.networks)

    def phases(self) -> Sequence[Phase]:
        about = "learns in environments"
        cloning = Phase("cloning", self.settings.cloning_iterations, self._begin_cloning, "imitates a store")
        first = [cloning] if self.settings.cloning else []
        return [*first, Phase("learning", self.settings.iterations, self._begin, about, self._interact)]

    def _begin_cloning(self) -> Sequence[Objective]:
        assert self._store is not None
        steps = SegmentSampler(
            self._store,
            horizon=1,
            batch_size=distributed.share(self.settings.cloning_batch_size),
            balance="transition",
            **sampling(self._training, self._store),
        )
        bounds = (torch.as_tensor(self._middle + sign * self._half).float() for sign in (-1, 1))
        objective = sampled_objective(
            "cloning", steps, CloningLoss(self.networks, *bounds), [self.networks.actor]
        )
        objective.optimizer = OptimizerSettings(self.settings.learning_rate, "adam")
        return [objective]

    def _begin(self) -> Sequence[Objective]:
        networks, settings = self.networks, self.settings
        self._actor = SACPolicy(networks)
        self._actor.reset(self.collector.tasks)
        return objectives(networks, ReplaySampler(self.replay, settings.batch_size, seed=self._seed))

    def _interact(self, iteration: int) -> Mapping[str, float]:
        """As many steps as there should have been before this iteration."""
        due = self.settings.warmup_steps + int(iteration / self.settings.updates_per_step)
        self.collector.start()
        found: dict[str, list[float]] = {}
        while self.collector.steps < due:
            explored = self._explore()
            step, _ = self.collector.step((self._middle + self._half * explored).astype(np.float32))
            self._keep(step, explored)
            if self.experience is not None:
                self.experience.add(step)
            for name, value in self.log.add(step).items():
                found.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in found.items()}
        return {**means, "steps": float(self.collector.steps * len(self.collector.tasks))}

    def _explore(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Actions in [-1, 1]: uniform at first unless the actor has been cloned, then samples of the actor."""
        if not self.settings.cloning and self.collector.steps < self.settings.warmup_steps:
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


def objectives(networks: SACNetworks, transitions: ReplaySampler) -> list[Objective]:
    """An update of all agents: critics and their targets, then actors and temperatures, on the same batch."""
    return actor_critic(
        transitions,
        networks,
        CriticLoss(networks),
        ActorLoss(networks),
        [networks.actor, networks.temperature],
        networks.settings.learning_rate,
    )


def _provenance(suite: Suite, settings: SACSettings, seed: int) -> dict[str, Any]:
    packages = {name: metadata.version(name) for name in (*suite.packages, "numpy", "torch")}
    return {
        "source": "sac",
        "policy": "soft actor-critic while it learns, an agent per task",
        "seed": seed,
        "updates_per_step": settings.updates_per_step,
        "warmup_steps": settings.warmup_steps,
        "reward_scale": settings.reward_scale,
        "packages": {"goskill": goskill.__version__, **packages},
        "suite": suite.name,
        **({} if suite.reward_version is None else {"reward_version": suite.reward_version}),
    }
