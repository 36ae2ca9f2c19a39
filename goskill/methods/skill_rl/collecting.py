"""Stepping environments by skills: decisions of several steps, each a transition for a replay buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.data import ReplayBuffer
from goskill.envs.suite import Suite
from goskill.methods.skill_rl.execution import ExecutableSkills, SkillExecution
from goskill.rollouts.collector import Collector, Steps
from goskill.rollouts.episode_log import EpisodeLog
from goskill.rollouts.policy import FloatArray

Choose = Callable[[Tensor], Tensor]
"""Observations [N, observation_dim] of all environments, raw -> a skill for each, [N, skill_size]."""


@dataclass(frozen=True)
class SkillTransitions:
    """n decisions that have ended, each in the environment ``rows`` int64 [n]; arrays [n, ...].

    ``rewards`` are summed over the decision's steps, ``discount`` is that of what follows: gamma^steps.
    """

    rows: npt.NDArray[np.int64]
    observations: FloatArray
    skills: FloatArray
    rewards: FloatArray
    next_observations: FloatArray
    terminated: npt.NDArray[np.bool_]
    discount: FloatArray

    def add_to(
        self,
        replay: ReplayBuffer,
        ring: npt.NDArray[np.int64],
        chosen: npt.NDArray[np.bool_] | slice = slice(None),
    ) -> None:
        """Keep them, or the ``chosen`` ones bool [n], in a buffer; ``ring`` int64 [environments]: who fills which."""
        rows = self.rows[chosen]
        if len(rows):
            replay.add(
                observations=self.observations[chosen],
                actions=self.skills[chosen],
                rewards=self.rewards[chosen],
                next_observations=self.next_observations[chosen],
                terminated=self.terminated[chosen],
                discount=self.discount[chosen],
                task=ring[rows],
            )


class SkillCollector:
    """Environments in which skills follow one another; an episode's end cuts the skill under way.

    A checkpoint keeps everything but the ``log``, which is a state of its own: loaded, it goes on to the bit where the
    suite's environments follow from their seeds.

    Args:
        suite: the environments.
        tasks: of each environment, one name each.
        model: of the skills.
        discount: gamma, per environment step.
        seed: decides every episode, together with the environment's place and the number of its episode.
        workers: processes that step the environments; None: as the suite prefers.
    """

    def __init__(
        self,
        suite: Suite,
        tasks: Sequence[str],
        model: ExecutableSkills,
        discount: float,
        seed: int,
        workers: int | None = None,
    ) -> None:
        self.model, self.discount = model, discount
        self.environments = Collector(suite, tasks, seed, workers)
        self.log = EpisodeLog(tasks)
        low, high = suite.action_space.low, suite.action_space.high
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self._execution: SkillExecution | None = None
        self._begun_at = np.zeros((len(tasks), suite.observation_dim), np.float32)
        self._rewards = np.zeros(len(tasks))
        self._lengths = np.zeros(len(tasks), np.int64)  # of the decisions under way

    @property
    def tasks(self) -> list[str]:
        """Of each environment."""
        return self.environments.tasks

    @property
    def steps(self) -> int:
        """Steps of every environment so far."""
        return self.environments.steps

    def start(self) -> None:
        """Make the environments, if there are none yet, and begin an episode in each."""
        self.environments.start()
        if self._execution is None:
            self._execution = SkillExecution(self.model, len(self.tasks))

    def step(self, choose: Choose) -> tuple[SkillTransitions, dict[str, float]]:
        """Take a step in every environment, with new skills by ``choose`` where there is none under way.

        Returns the decisions that ended with it, and means over the episodes that did.
        """
        assert self._execution is not None
        observations = self.environments.observations
        waiting = self._execution.waiting
        if waiting.any():
            device = self.model.normalize.mean.device
            self._execution.begin(waiting, choose(torch.from_numpy(observations).to(device)))
            self._begun_at = np.where(waiting[:, None], observations, self._begun_at)
            self._rewards[waiting], self._lengths[waiting] = 0.0, 0
        actions = self._middle + self._half * self._execution.act(observations)
        step, _ = self.environments.step(actions.astype(np.float32))
        self._rewards += step.rewards
        self._lengths += 1
        ended = self.log.add(step)
        self._execution.drop(step.terminated | step.truncated)
        return self._over(step), ended

    def _over(self, step: Steps) -> SkillTransitions:
        assert self._execution is not None
        rows = np.flatnonzero(self._execution.waiting)
        return SkillTransitions(
            rows,
            self._begun_at[rows],
            self._execution.skills(rows),
            self._rewards[rows].astype(np.float32),
            step.next_observations[rows],
            step.terminated[rows],
            (self.discount ** self._lengths[rows]).astype(np.float32),
        )

    def advance(
        self, goes_on: Callable[[], bool], choose: Choose, keep: Callable[[SkillTransitions], None]
    ) -> dict[str, float]:
        """Step while ``goes_on()``; ``keep`` is told the decisions that end at each step.

        Returns what to log: means over the episodes that ended, and ``steps`` of all environments together.
        """
        self.start()
        found: dict[str, list[float]] = {}
        while goes_on():
            over, ended = self.step(choose)
            keep(over)
            for name, value in ended.items():
                found.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in found.items()}
        return {**means, "steps": float(self.steps * len(self.tasks))}

    def close(self) -> None:
        """End the environments."""
        self.environments.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next steps."""
        return {
            "environments": self.environments.state_dict(),
            "execution": None if self._execution is None else self._execution.state_dict(),
            "begun_at": self._begun_at.copy(),
            "rewards": self._rewards.copy(),
            "lengths": self._lengths.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring environments and skills to where they were."""
        self.environments.load_state_dict(state["environments"])
        self._execution = None
        if state["execution"] is None:
            return
        self._execution = SkillExecution(self.model, len(self.tasks))
        self._execution.load_state_dict(state["execution"])
        self._begun_at = np.asarray(state["begun_at"]).astype(np.float32)
        self._rewards = np.asarray(state["rewards"]).astype(np.float64)
        self._lengths = np.asarray(state["lengths"]).astype(np.int64)
        if not np.array_equal(
            self.environments.observations, np.asarray(state["environments"]["observations"])
        ):
            self._execution.drop(np.ones(len(self.tasks), np.bool_))  # other episodes have begun
