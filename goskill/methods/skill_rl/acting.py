"""Acting by skills: choose one, carry it out, choose the next."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.methods.skill_rl.execution import SkillExecution
from goskill.methods.skill_rl.skill_model import SkillModel
from goskill.models import DiagonalNormal
from goskill.rollouts.policy import FloatArray

Distributions = Callable[[Sequence[str]], Callable[[Tensor], DiagonalNormal]]
"""Tasks -> what maps observations [N, observation_dim] to distributions of skills, one for each task.

Raises InputError for tasks that are not known.
"""


class SkillPolicy:
    """The mean skill, or with ``explore`` a sample, which draws from torch's generator.

    Args:
        name: for tables.
        model: of the skills.
        distributions: who chooses.
        sampled: whether it explores unasked, with random numbers of the ``seed`` of each reset.
    """

    needs_prompts = False

    def __init__(
        self, name: str, model: SkillModel, distributions: Distributions, *, sampled: bool = False
    ) -> None:
        self.name, self.model = name, model
        self._distributions, self._sampled = distributions, sampled
        self._generators: list[np.random.Generator] = []
        self._choose: Callable[[Tensor], DiagonalNormal] | None = None
        self._execution = SkillExecution(model, 0)

    def fork(self) -> SkillPolicy:
        """A policy with the same networks and episodes of its own."""
        return copy.copy(self)

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment. Raises InputError for a task that no agent has learned."""
        self._choose = self._distributions(tasks)
        self._execution = SkillExecution(self.model, len(tasks))
        seeds = (
            [[seed, row] for row in range(len(tasks))] if isinstance(seed, int) else [[one] for one in seed]
        )
        self._generators = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(one))) for one in seeds
        ]

    @torch.inference_mode()
    def act(self, observations: FloatArray, *, explore: bool = False) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim]."""
        values = np.ascontiguousarray(observations, dtype=np.float32)
        expected = (len(self._generators), self.model.observation_dim)
        if self._choose is None or values.shape != expected:
            raise InputError(f"observations: expected shape {expected} as reset, got {values.shape}")
        waiting = self._execution.waiting
        if waiting.any():
            chosen = self._choose(torch.from_numpy(values).to(self.model.normalize.mean.device))
            self._execution.begin(waiting, self._skills(chosen, explore))
        return self._execution.act(values)

    def _skills(self, chosen: DiagonalNormal, explore: bool) -> Tensor:
        if explore:
            return chosen.sample()
        if not self._sampled:
            return chosen.mean
        dimensions = chosen.mean.shape[1]
        noise = np.stack([one.standard_normal(dimensions, np.float32) for one in self._generators])
        return chosen.mean + chosen.log_std.exp() * torch.from_numpy(noise).to(chosen.mean.device)
