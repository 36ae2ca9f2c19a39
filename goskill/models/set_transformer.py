"""Set Transformer: a set of any size becomes one vector, whatever the order (Lee et al., ICML 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.attending import masked_attention
from goskill.models.ensemble import mlp


class AttentionBlock(nn.Module):
    """MAB(X, Y): rows of X attend to those of Y, and pass a linear layer; both with residuals and LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mixed, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, N, width], [B, M, width] -> [B, N, width]."""
        key, value = self.key_value(y).chunk(2, -1)
        query, key, value = (self._by_head(part) for part in (self.query(x), key, value))
        seen = masked_attention(query, key, value, None).transpose(1, 2).flatten(2)
        x = self.first_norm(x + self.mixed(seen))
        result: Tensor = self.second_norm(x + F.relu(self.output(x)))
        return result

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class InducedAttention(nn.Module):
    """ISAB: a set attends to itself through ``points`` learned ones, in time linear in its size."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(1, points, width))
        nn.init.xavier_uniform_(self.points)
        self.gather, self.spread = AttentionBlock(width, heads), AttentionBlock(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> [B, N, width]."""
        gathered = self.gather(self.points.expand(len(x), -1, -1), x)
        spread: Tensor = self.spread(x, gathered)
        return spread


class SetTransformer(nn.Module):
    """Two ISAB, a PMA with one seed, and a multilayer perceptron of three layers.

    Args:
        inputs: entries of an element.
        outputs: entries of the vector.
        width: of all hidden layers.
        heads: of all attention.
        points: induced points of each ISAB.
    """

    def __init__(self, inputs: int, outputs: int, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(InducedAttention(width, heads, points) for _ in range(2))
        self.seed = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.seed)
        self.pool = AttentionBlock(width, heads)
        self.head = mlp([width, width, width, outputs])

    def forward(self, elements: Tensor) -> Tensor:
        """Sets [B, N, inputs], N at least 1 -> [B, outputs]."""
        x = self.embed(elements)
        for layer in self.layers:
            x = layer(x)
        pooled = self.pool(self.seed.expand(len(x), -1, -1), x)
        outputs: Tensor = self.head(pooled[:, 0])
        return outputs
