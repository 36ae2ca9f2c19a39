"""How a meta-trained agent acts in a task that it knows nothing of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goskill.methods.simpl.decisions import DecisionDistribution
from goskill.methods.simpl.networks import MetaAgent
from goskill.methods.skill_rl import SampledSkillPolicy


class UnconditionedPolicy(SampledSkillPolicy):
    """Explores: each episode's embedding is drawn from N(0, 1) by the seed of its reset, and decisions are sampled."""

    def __init__(self, name: str, agent: MetaAgent) -> None:
        super().__init__(name, agent.skills)
        self._agent = agent
        self._embedding = torch.zeros(0, agent.settings.embedding_dim)

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment, whatever its task."""
        super().reset(tasks, prompts, seed)
        size = self._agent.settings.embedding_dim
        drawn = np.stack([one.standard_normal(size, np.float32) for one in self._generators])
        self._embedding = torch.from_numpy(drawn).to(self.model.normalize.mean.device)

    def _distribution(self, observations: Tensor) -> DecisionDistribution:
        return self._agent.policy(observations, self._embedding)
