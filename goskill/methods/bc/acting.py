"""How behaviour cloning acts: an action for each observation, from nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from goskill.errors import InputError
from goskill.methods.bc.networks import BCNetworks
from goskill.rollouts.policy import FloatArray, Prompts


class BCPolicy:
    """Deterministic actions in any number of environments. Demonstrations are not looked at.

    ``networks`` are used on the device where they are; ``precision`` is "float32", or "bfloat16" for autocast.
    """

    needs_prompts = False

    def __init__(self, networks: BCNetworks, *, precision: str = "float32") -> None:
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")
        share = networks.settings.best_share
        self.name = "BC" if share == 1 else f"{100 * share:g}%-BC"
        self.networks = networks.eval()
        self._precision = precision
        self._task: torch.Tensor | None = None
        self._count = 0

    def fork(self) -> BCPolicy:
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
        values = np.ascontiguousarray(observations, dtype=np.float32)
        expected = (self._count, self.networks.observation_dim)
        if values.shape != expected:
            raise InputError(f"observations: expected shape {expected} as reset, got {values.shape}")
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise InputError(
                f"observations: expected finite numbers, got others in environment {int(np.argmin(finite))}"
            )
        device = self.networks.normalize.mean.device
        with torch.autocast(device.type, torch.bfloat16, self._precision == "bfloat16"):
            actions = self.networks(torch.from_numpy(values).to(device), self._task)
        return np.asarray(actions.float().cpu().numpy(), dtype=np.float32)
