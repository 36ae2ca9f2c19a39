"""How soft actor-critic acts: each environment by the agent of its task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from goskill.methods.sac.networks import SACNetworks
from goskill.models import SquashedNormal
from goskill.rollouts.policy import FloatArray, checked_observations


class SACPolicy:
    """The mean action, or with ``explore`` a sample, which draws from torch's generator."""

    name = "SAC"
    needs_prompts = False

    def __init__(self, networks: SACNetworks) -> None:
        self.networks = networks
        self._agent = torch.zeros(0, dtype=torch.int64)

    def fork(self) -> SACPolicy:
        """A policy with the same networks and episodes of its own."""
        return copy.copy(self)

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment. Raises InputError for a task that no agent has learned."""
        self._agent = self.networks.agent_of(tasks)

    @torch.inference_mode()
    def act(self, observations: FloatArray, *, explore: bool = False) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim]."""
        values = checked_observations(observations, len(self._agent), self.networks.observation_dim)
        x = torch.from_numpy(values).to(self._agent.device)
        distribution = SquashedNormal.from_output(self.networks.actor.of_members(x, self._agent))
        action = distribution.sample()[0] if explore else distribution.mode()
        return np.asarray(action.cpu().numpy(), dtype=np.float32)
