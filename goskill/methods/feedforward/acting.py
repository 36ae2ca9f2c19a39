"""Acting without memory: an action for each observation, from nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from goskill.models import Normalize
from goskill.rollouts.policy import FloatArray, Prompts, check_precision, checked_observations


class ActingNetworks(Protocol):
    """Networks that give actions [B, action_dim] for raw observations and the places of tasks."""

    observation_dim: int

    @property
    def normalize(self) -> Normalize: ...

    def task_index(self, tasks: Sequence[str]) -> Tensor | None: ...

    def __call__(self, observations: Tensor, task: Tensor | None) -> Tensor: ...

    def eval(self) -> ActingNetworks: ...


class FeedForwardPolicy:
    """Deterministic actions in any number of environments. Demonstrations are not looked at.

    ``networks`` are used on the device where they are; ``precision`` is "float32", or "bfloat16" for autocast.
    """

    needs_prompts = False

    def __init__(self, networks: ActingNetworks, name: str, *, precision: str = "float32") -> None:
        check_precision(precision)
        self.name = name
        self.networks = networks.eval()
        self._precision = precision
        self._task: torch.Tensor | None = None
        self._count = 0

    def fork(self) -> FeedForwardPolicy:
        """A policy with the same networks and episodes of its own."""
        return copy.copy(self)

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment. Raises InputError for a task that the network has to know."""
        self._task = self.networks.task_index(tasks)
        self._count = len(tasks)

    @torch.inference_mode()
    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim].

        Raises InputError for observations that are misshapen or not finite.
        """
        values = checked_observations(observations, self._count, self.networks.observation_dim)
        device = self.networks.normalize.mean.device
        with torch.autocast(device.type, torch.bfloat16, self._precision == "bfloat16"):
            actions = self.networks(torch.from_numpy(values).to(device), self._task)
        return np.asarray(actions.float().cpu().numpy(), dtype=np.float32)
