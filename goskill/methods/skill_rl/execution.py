"""Carrying skills out, in many environments whose skills begin at different times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.methods.skill_rl.skill_model import OpenLoopDecoder, SkillModel
from goskill.rollouts.policy import FloatArray


class SkillExecution:
    """The skills under way in N environments.

    Args:
        model: of the skills, on the device where it computes.
        count: N. No environment has a skill at first.
    """

    def __init__(self, model: SkillModel, count: int) -> None:
        self.model = model
        self._step = np.full(count, model.settings.horizon)  # of the skill under way
        device = model.normalize.mean.device
        self._skill = torch.zeros(count, model.settings.skill_dim, device=device)
        self._plan: Tensor | None = None  # of the open-loop decoder
        if isinstance(model.decoder, OpenLoopDecoder):
            self._plan = torch.zeros(count, model.settings.horizon, model.action_dim, device=device)

    @property
    def waiting(self) -> npt.NDArray[np.bool_]:
        """Environments that need a skill, bool [N]."""
        return np.asarray(self._step >= self.model.settings.horizon)

    def skills(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """The skills of environments int64 [n], float32 [n, skill_dim]."""
        if not len(rows):  # nothing to wait for on a GPU
            return np.zeros((0, self._skill.shape[1]), np.float32)
        skills: FloatArray = self._skill.cpu().numpy()[rows]
        return skills

    @torch.inference_mode()
    def begin(self, rows: npt.NDArray[np.bool_], skills: Tensor) -> None:
        """Begin ``skills`` [N, skill_dim] in the environments ``rows``, bool [N]."""
        chosen = torch.from_numpy(rows).to(self._skill.device)
        self._skill = torch.where(chosen[:, None], skills, self._skill)
        if isinstance(self.model.decoder, OpenLoopDecoder) and self._plan is not None:
            self._plan = torch.where(chosen[:, None, None], self.model.decoder(self._skill), self._plan)
        self._step[rows] = 0

    def drop(self, rows: npt.NDArray[np.bool_]) -> None:
        """End the skills of the environments ``rows``, bool [N]: their episodes are over."""
        self._step[rows] = self.model.settings.horizon

    @torch.inference_mode()
    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] in [-1, 1] for observations [N, observation_dim]; each skill goes one on."""
        if self._plan is not None:
            place = torch.from_numpy(self._step).to(self._plan.device)
            actions = self._plan[torch.arange(len(place), device=place.device), place]
        else:
            states = self.model.normalize(torch.from_numpy(observations).to(self._skill.device))
            actions = self.model.decoder(states, self._skill)
        self._step += 1
        return np.asarray(actions.cpu().numpy(), np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next actions."""
        plan = {} if self._plan is None else {"plan": self._plan}
        return {"step": self._step.copy(), "skill": self._skill, **plan}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self._step = np.asarray(state["step"]).astype(np.int64)
        self._skill = torch.as_tensor(state["skill"]).to(self._skill.device)
        if self._plan is not None:
            self._plan = torch.as_tensor(state["plan"]).to(self._plan.device)
