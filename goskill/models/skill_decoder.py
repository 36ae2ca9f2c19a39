"""The skill decoder: the low-level policy that carries a skill out for H steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.models.action_head import ActionHead
from goskill.models.transformer import LAST_POSITION, CausalTransformer, KeyValueCache


class SkillDecoder(nn.Module):
    """Actions of H steps from a skill, and the states, reached goals and actions so far.

    The sequence is the skill, then (reached goal, state, action) for each step; the action of a step is
    read at its state token. Without ``reached_goal`` a step is (state, action). With ``heads_per_skill``
    positive, each skill index has an output layer of its own. The last action token can influence nothing
    and is left out.
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
        heads: int,
        dropout: float,
        reached_goal: bool = True,
        heads_per_skill: int = 0,
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.reached_goal = reached_goal
        self.action_dim = action_dim
        self.tokens_per_step = 3 if reached_goal else 2
        self.embed_skill = nn.Linear(embedding_size, width)  # of the skill and of reached goals
        self.embed_state = nn.Linear(observation_dim, width)
        self.embed_action = nn.Linear(action_dim, width)
        self.embed_step = nn.Embedding(horizon, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.transformer = CausalTransformer(width, layers, heads, dropout)
        self.action_head = ActionHead(width, action_dim, max(1, heads_per_skill))

    def forward(
        self,
        skill: Tensor,
        skill_index: Tensor | None,
        reached: Tensor | None,
        observations: Tensor,
        actions: Tensor,
    ) -> Tensor:
        """All H actions at once, each from what precedes it (teacher forcing).

        skill [B, E]; skill_index int64 [B], needed by the multi-head decoder; reached [B, H, E], ignored
        without reached goals; observations [B, H, observation_dim], normalised; actions [B, H, action_dim].
        Returns float [B, H, action_dim] in (-1, 1).
        """
        H = observations.shape[1]
        parts = [self.embed_state(observations), self.embed_action(actions)]
        if self.reached_goal:
            assert reached is not None, "this decoder needs the reached goals"
            parts.insert(0, self.embed_skill(reached))
        steps = torch.stack(parts, dim=2) + self.embed_step.weight[:H, None]
        steps = steps.flatten(1, 2)  # [B, tokens_per_step * H, width]
        tokens = torch.cat([self.embed_skill(skill)[:, None], steps[:, :-1]], dim=1)
        at_states = slice(self.tokens_per_step - 1, None, self.tokens_per_step)
        hidden = self.transformer(self.embedding_norm(tokens), at_states)
        return self._actions(hidden, skill_index)

    def begin(
        self,
        skill: Tensor,
        skill_index: Tensor | None,
        reached: Tensor | None,
        observation: Tensor,
        cache: KeyValueCache,
    ) -> Tensor:
        """The first action of a skill: float [B, action_dim]. The cache is emptied first.

        skill [B, E]; reached [B, E]; observation [B, observation_dim], normalised.
        """
        cache.truncate(0)
        return self._extend([self.embed_skill(skill)], skill_index, reached, observation, 0, cache)

    def step(
        self,
        skill_index: Tensor | None,
        action: Tensor,
        reached: Tensor | None,
        observation: Tensor,
        step: int,
        cache: KeyValueCache,
    ) -> Tensor:
        """The action of step ``step`` >= 1, after ``action`` [B, action_dim] was taken: [B, action_dim].

        The cache holds the steps before; what it holds after them is forgotten.
        """
        cache.length = self.tokens_per_step * step
        taken = self.embed_action(action) + self.embed_step.weight[step - 1]
        return self._extend([taken], skill_index, reached, observation, step, cache)

    def new_cache(self, batch: int) -> KeyValueCache:
        """An empty cache that holds one skill's tokens of ``batch`` sequences."""
        return self.transformer.new_cache(batch, self.tokens_per_step * self.horizon)

    def _extend(
        self,
        before: list[Tensor],
        skill_index: Tensor | None,
        reached: Tensor | None,
        observation: Tensor,
        step: int,
        cache: KeyValueCache,
    ) -> Tensor:
        now = self.embed_step.weight[step]
        parts = self._reached_tokens(reached, now)
        tokens = torch.stack([*before, *parts, self.embed_state(observation) + now], dim=1)
        hidden = self.transformer.extend(self.embedding_norm(tokens), cache, LAST_POSITION)
        return self._actions(hidden, skill_index)[:, 0]

    def _reached_tokens(self, reached: Tensor | None, step: Tensor) -> list[Tensor]:
        if not self.reached_goal:
            return []
        assert reached is not None, "this decoder needs the reached goals"
        return [self.embed_skill(reached) + step]

    def _actions(self, hidden: Tensor, skill_index: Tensor | None) -> Tensor:
        return torch.tanh(self.action_head(hidden, skill_index))
