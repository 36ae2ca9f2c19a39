"""The action policy of the Prompt-DT family: an action at each environment step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.models.action_head import ActionHead
from goskill.models.decision_transformer import DecisionEmbedding, Decisions, DecisionTransformer


class ActionEmbedding(DecisionEmbedding):
    """Embeds actions of ``action_dim``."""

    def __init__(self, observation_dim: int, action_dim: int, width: int, max_decisions: int) -> None:
        super().__init__(observation_dim, width, max_decisions)
        self.action = nn.Linear(action_dim, width)

    def choice(self, choices: Tensor) -> Tensor:
        token: Tensor = self.action(choices)
        return token


class ActionPolicy(DecisionTransformer):
    """The next action from a prompt and the history, read at the state tokens.

    ``prompted`` says whether there is a prompt. With ``heads_per_task`` positive, each of so many tasks has an
    output layer of its own. With ``task_embedding`` positive, each of ``tasks`` has a learned vector of that
    length, which is concatenated to its observations.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        max_decisions: int,
        prompted: bool = True,
        heads_per_task: int = 0,
        tasks: int = 0,
        task_embedding: int = 0,
    ) -> None:
        size = observation_dim + task_embedding
        super().__init__(
            ActionEmbedding(size, action_dim, width, max_decisions),
            ActionEmbedding(size, action_dim, width, max_decisions) if prompted else None,
            width=width,
            layers=layers,
            heads=heads,
            dropout=dropout,
        )
        self.action_head = ActionHead(width, action_dim, max(1, heads_per_task))
        self.embed_task = nn.Embedding(tasks, task_embedding) if task_embedding else None

    def forward(
        self, history: Decisions, prompt: Decisions | None = None, task: Tensor | None = None
    ) -> Tensor:
        """Every history row's action, each from what precedes it: [B, K, action_dim] in (-1, 1).

        ``observations`` of prompt and history come from ``states``; ``task`` int64 [B] is needed by several heads.
        Rows that are padding get finite, meaningless actions.
        """
        return self.actions(self.hidden(history, prompt), task)

    def states(self, observations: Tensor, task: Tensor | None) -> Tensor:
        """What is embedded of normalised observations [B, ..., observation_dim] of tasks int64 [B]."""
        if self.embed_task is None:
            return observations
        assert task is not None, "this policy needs the task"
        vector = self.embed_task(task).to(observations.dtype)
        vector = vector.view(len(vector), *(1,) * (observations.ndim - 2), -1)
        return torch.cat([observations, vector.expand(*observations.shape[:-1], -1)], dim=-1)

    def actions(self, hidden: Tensor, task: Tensor | None) -> Tensor:
        """Hidden states at state tokens [B, K, width] -> actions [B, K, action_dim] of tasks int64 [B]."""
        return torch.tanh(self.action_head(hidden, task))
