"""Carrying skills out, in many environments whose skills begin at different times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.models import Normalize
from goskill.rollouts.policy import FloatArray


class ExecutableSkills(Protocol):
    """What knows how skills, vectors of ``skill_size`` numbers, are carried out."""

    observation_dim: int
    action_dim: int

    @property
    def normalize(self) -> Normalize:
        """The normalisation of observations, which tells the device as well."""

    @property
    def horizon(self) -> int:
        """Steps of the longest skill."""

    @property
    def skill_size(self) -> int:
        """Numbers that a skill is told by."""

    def plan(self, skill: Tensor) -> tuple[Tensor, Tensor] | None:
        """All actions [N, horizon, action_dim] of skills [N, skill_size] and how many count, int64 [N].

        None where actions depend on the states met.
        """

    def act(self, observations: Tensor, skill: Tensor) -> Tensor:
        """Actions [N, action_dim] at raw observations [N, observation_dim], where there is no plan."""


class SkillExecution:
    """The skills under way in N environments.

    Args:
        model: of the skills, on the device where it computes.
        count: N. No environment has a skill at first.
    """

    def __init__(self, model: ExecutableSkills, count: int) -> None:
        self.model = model
        self._step = np.zeros(count, np.int64)  # of the skill under way
        self._length = np.zeros(count, np.int64)
        device = model.normalize.mean.device
        self._skill = torch.zeros(count, model.skill_size, device=device)
        self._plan = torch.zeros(count, model.horizon, model.action_dim, device=device)
        self._planned = False

    @property
    def waiting(self) -> npt.NDArray[np.bool_]:
        """Environments that need a skill, bool [N]."""
        return np.asarray(self._step >= self._length)

    def skills(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """The skills of environments int64 [n], float32 [n, skill_size]."""
        if not len(rows):  # nothing to wait for on a GPU
            return np.zeros((0, self._skill.shape[1]), np.float32)
        skills: FloatArray = self._skill.cpu().numpy()[rows]
        return skills

    @torch.inference_mode()
    def begin(self, rows: npt.NDArray[np.bool_], skills: Tensor) -> None:
        """Begin ``skills`` [N, skill_size] in the environments ``rows``, bool [N]."""
        chosen = torch.from_numpy(rows).to(self._skill.device)
        self._skill = torch.where(chosen[:, None], skills, self._skill)
        planned = self.model.plan(self._skill)
        self._planned = planned is not None
        self._step[rows], self._length[rows] = 0, self.model.horizon
        if planned is not None:
            self._plan = torch.where(chosen[:, None, None], planned[0], self._plan)
            self._length[rows] = planned[1].cpu().numpy()[rows]

    def drop(self, rows: npt.NDArray[np.bool_]) -> None:
        """End the skills of the environments ``rows``, bool [N]: their episodes are over."""
        self._length[rows] = 0

    @torch.inference_mode()
    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] in [-1, 1] for observations [N, observation_dim]; each skill goes one on."""
        if self._planned:
            place = torch.from_numpy(self._step).to(self._plan.device)
            actions = self._plan[torch.arange(len(place), device=place.device), place]
        else:
            actions = self.model.act(torch.from_numpy(observations).to(self._skill.device), self._skill)
        self._step += 1
        return np.asarray(actions.cpu().numpy(), np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next actions."""
        steps = {"step": self._step.copy(), "length": self._length.copy()}
        return {**steps, "skill": self._skill, "plan": self._plan if self._planned else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self._step = np.asarray(state["step"]).astype(np.int64)
        self._length = np.asarray(state["length"]).astype(np.int64)
        self._skill = torch.as_tensor(state["skill"]).to(self._skill.device)
        self._planned = state["plan"] is not None
        if self._planned:
            self._plan = torch.as_tensor(state["plan"]).to(self._plan.device)
