"""Acting by skills: choose one, carry it out, choose the next."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.methods.skill_rl.execution import ExecutableSkills, SkillExecution
from goskill.rollouts.policy import FloatArray, checked_observations


class SkillDistribution(Protocol):
    """Distributions of skills in N environments."""

    @property
    def mean(self) -> Tensor:
        """The skills to take without exploring, [N, skill_size]."""

    def sample(self) -> Tensor:
        """Skills drawn by torch's generator, [N, skill_size]."""


class NormalSkills(SkillDistribution, Protocol):
    """Those that are functions of normal noise."""

    def at(self, noise: Tensor) -> Tensor:
        """The skills that standard normal ``noise`` [N, skill_size] leads to."""


@dataclass(frozen=True)
class _Drawn:
    """Skills [N, skill_size] that are drawn already."""

    mean: Tensor

    def sample(self) -> Tensor:
        return self.mean


Choices = Callable[[Sequence[str]], Callable[[Tensor], SkillDistribution]]
"""Tasks -> what maps observations [N, observation_dim] to choices of skills, one for each task.

Raises InputError for tasks that are not known.
"""


class SkillChoosingPolicy:
    """The skills that are thought best, or with ``explore`` samples, which draw from torch's generator.

    Args:
        name: for tables.
        model: of the skills.
        choices: who chooses.
    """

    needs_prompts = False

    def __init__(self, name: str, model: ExecutableSkills, choices: Choices) -> None:
        self.name, self.model = name, model
        self._choices = choices
        self._count = 0
        self._choose: Callable[[Tensor], SkillDistribution] | None = None
        self._execution = SkillExecution(model, 0)

    def fork(self) -> SkillChoosingPolicy:
        """A policy with the same networks and episodes of its own."""
        return copy.copy(self)

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment. Raises InputError for a task that no agent has learned."""
        self._choose = self._choices(tasks)
        self._count = len(tasks)
        self._execution = SkillExecution(self.model, len(tasks))

    @torch.inference_mode()
    def act(self, observations: FloatArray, *, explore: bool = False) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim]."""
        values = checked_observations(observations, self._count, self.model.observation_dim)
        if self._choose is None:
            raise InputError("act: expected reset(tasks) before the first action")
        waiting = self._execution.waiting
        if waiting.any():
            chosen = self._choose(torch.from_numpy(values).to(self.model.normalize.mean.device))
            self._execution.begin(waiting, chosen.sample() if explore else chosen.mean)
        return self._execution.act(values)


class SampledSkillPolicy(SkillChoosingPolicy, ABC):
    """Skills drawn in every task from one distribution, by random numbers of the ``seed`` of each reset."""

    def __init__(self, name: str, model: ExecutableSkills) -> None:
        super().__init__(name, model, lambda tasks: self._distribution)
        self._generators: list[np.random.Generator] = []

    @abstractmethod
    def _distribution(self, observations: Tensor) -> NormalSkills:
        """Of skills, for observations [N, observation_dim]."""

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment, whatever its task."""
        super().reset(tasks, prompts, seed)
        self._choose = self._drawn  # of this policy, not of the one that it was forked from
        seeds = (
            [[seed, row] for row in range(len(tasks))] if isinstance(seed, int) else [[one] for one in seed]
        )
        self._generators = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(one))) for one in seeds
        ]

    def _drawn(self, observations: Tensor) -> _Drawn:
        skills = self._distribution(observations)
        size = skills.mean.shape[1]
        noise = np.stack([one.standard_normal(size, np.float32) for one in self._generators])
        return _Drawn(skills.at(torch.from_numpy(noise).to(skills.mean.device)))
