"""A skill decoder without a memory: a multilayer perceptron that sees one step at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.action_head import ActionHead


class StepDecoder(nn.Module):
    """Actions of H steps, each from the skill, the step's number, its state and the goal reached by then.

    It takes what :class:`goskill.models.SkillDecoder` takes, and is not told what was done and seen before, which it
    could only imitate. With ``heads_per_skill`` positive, each skill index has an output layer of its own.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        embedding_size: int,
        horizon: int,
        *,
        width: int,
        layers: int,
        reached_goal: bool = True,
        heads_per_skill: int = 0,
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.reached_goal = reached_goal
        self.action_dim = action_dim
        self.embed_skill = nn.Linear(embedding_size, width, bias=False)
        self.embed_reached = nn.Linear(embedding_size, width, bias=False) if reached_goal else None
        self.embed_state = nn.Linear(observation_dim, width)
        self.embed_step = nn.Embedding(horizon, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(layers - 1)])
        self.action_head = ActionHead(width, action_dim, max(1, heads_per_skill))
        # torch's own bounds shrink what centimetres make of a state by 2.4 in each layer.
        for layer in (self.embed_state, *self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(
        self,
        skill: Tensor,
        skill_index: Tensor | None,
        reached: Tensor | None,
        observations: Tensor,
        actions: Tensor,
    ) -> Tensor:
        """All H actions at once: float [B, H, action_dim] in (-1, 1).

        skill [B, E]; skill_index int64 [B], needed by the multi-head decoder; reached [B, H, E], ignored without
        reached goals; observations [B, H, observation_dim], normalised; actions are not looked at.
        """
        steps = self.embed_step.weight[: observations.shape[1]]
        return self._actions(skill[:, None], skill_index, reached, observations, steps)

    def begin(
        self,
        skill: Tensor,
        skill_index: Tensor | None,
        reached: Tensor | None,
        observation: Tensor,
        cache: Tensor,
    ) -> Tensor:
        """The first action of a skill: float [B, action_dim]. The skill is put into the cache.

        skill [B, E]; reached [B, E]; observation [B, observation_dim], normalised.
        """
        cache.copy_(skill)
        return self._act(skill_index, reached, observation, 0, cache)

    def step(
        self,
        skill_index: Tensor | None,
        action: Tensor,
        reached: Tensor | None,
        observation: Tensor,
        step: int,
        cache: Tensor,
    ) -> Tensor:
        """The action of step ``step`` >= 1 of the skill in the cache: [B, action_dim]; ``action`` is not looked at."""
        return self._act(skill_index, reached, observation, step, cache)

    def new_cache(self, batch: int) -> Tensor:
        """Room for the skills of ``batch`` sequences: [batch, E]."""
        return self.embed_skill.weight.new_zeros(batch, self.embed_skill.in_features)

    def _act(
        self,
        skill_index: Tensor | None,
        reached: Tensor | None,
        observation: Tensor,
        step: int,
        skill: Tensor,
    ) -> Tensor:
        now = None if reached is None else reached[:, None]
        rows = self.embed_step.weight[step : step + 1]
        return self._actions(skill[:, None], skill_index, now, observation[:, None], rows)[:, 0]

    def _actions(
        self,
        skill: Tensor,
        skill_index: Tensor | None,
        reached: Tensor | None,
        observations: Tensor,
        steps: Tensor,
    ) -> Tensor:
        hidden = self.embed_state(observations) + self.embed_skill(skill) + steps
        if self.embed_reached is not None:
            assert reached is not None, "this decoder needs the reached goals"
            hidden = hidden + self.embed_reached(reached)
        hidden = F.relu(hidden)
        for layer in self.hidden:
            hidden = F.relu(layer(hidden))
        return torch.tanh(self.action_head(hidden, skill_index))
