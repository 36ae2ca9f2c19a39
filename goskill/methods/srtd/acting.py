"""How SRTD acts: the latent of the last steps beside each observation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.methods.srtd.networks import SRTDNetworks
from goskill.rollouts.policy import FloatArray, check_precision, checked_observations, checked_rewards


class SRTDPolicy:
    """Deterministic actions in any number of environments. It has to be told what each action was paid.

    An episode begins with the latent of no steps at all, as episodes do in training.
    """

    needs_prompts = False

    def __init__(self, networks: SRTDNetworks, name: str, *, precision: str = "float32") -> None:
        check_precision(precision)
        self.name = name
        self.networks = networks.eval()
        self._precision = precision
        self._action: Tensor | None = None  # the last one, and what it was paid
        self._paid: Tensor | None = None
        self._begin(0)

    def fork(self) -> SRTDPolicy:
        """A policy with the same networks and episodes of its own."""
        other = copy.copy(self)
        other._begin(0)
        return other

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment."""
        self._begin(len(tasks))

    @torch.inference_mode()
    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, A] for raw observations float32 [N, S].

        Raises InputError for observations that are misshapen or not finite, and if ``observe`` was not called since
        the last action.
        """
        values = checked_observations(observations, len(self._steps), self.networks.observation_dim)
        device = self._steps.device
        raw = torch.from_numpy(values).to(device)
        self._remember(self.networks.normalize(raw))
        with torch.autocast(device.type, torch.bfloat16, self._precision == "bfloat16"):
            actions = self.networks.act(raw, self._steps).float()
        self._action, self._paid = actions, None
        return np.asarray(actions.cpu().numpy(), dtype=np.float32)

    def observe(self, rewards: npt.ArrayLike) -> None:
        """What each environment paid for the last action, [N].

        Raises InputError for another shape, and for rewards that are not finite.
        """
        paid = checked_rewards(rewards, len(self._steps)).astype(np.float32)
        self._paid = torch.from_numpy(paid).to(self._steps.device)

    def _begin(self, count: int) -> None:
        networks, device = self.networks, self.networks.normalize.mean.device
        size = (count, networks.settings.history, networks.step_size)
        self._steps = torch.zeros(size, device=device)  # as SRTDNetworks.encode_task takes them
        self._before = torch.zeros(count, device=device)  # the reward before the last
        self._action = self._paid = None

    def _remember(self, states: Tensor) -> None:
        """Put the step that led to ``states`` behind the others."""
        if self._action is None:
            return
        if self._paid is None:
            raise InputError("act: expected observe(rewards) after each action, which this policy acts upon")
        settings = self.networks.settings
        reward = self._paid - self._before if settings.rewards == "differences" else self._paid
        step = torch.cat([self._action, states, settings.reward_scale * reward[:, None]], -1)
        self._steps = torch.cat([self._steps[:, 1:], step[:, None]], 1)
        self._before = self._paid
