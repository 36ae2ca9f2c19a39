"""An output layer per class (of skills or of tasks), of which only those that are needed are computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ActionHead(nn.Linear):
    """Hidden states -> actions before their Tanh, by one output layer or by one of ``heads``.

    Head h is rows [h * action_dim, (h + 1) * action_dim) of ``weight`` and ``bias``.
    """

    def __init__(self, width: int, action_dim: int, heads: int = 1) -> None:
        super().__init__(width, heads * action_dim)
        self.action_dim = action_dim
        self.heads = heads

    def forward(self, hidden: Tensor, index: Tensor | None = None) -> Tensor:
        """hidden [B, L, width], index int64 [B] (needed with several heads) -> [B, L, action_dim]."""
        if self.heads == 1:
            return super().forward(hidden)
        assert index is not None, "several heads need an index"
        A, W = self.action_dim, hidden.shape[-1]
        weight = F.embedding(index, self.weight.view(-1, A * W)).view(-1, A, W)
        bias = F.embedding(index, self.bias.view(-1, A))
        return torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))
