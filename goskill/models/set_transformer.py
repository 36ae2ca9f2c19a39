"""Set Transformer: a set of any size becomes one vector, whatever the order (Lee et al., ICML 2019).

Elements are many, learned points and seeds few. So weights are multiplied with the few: ``q (W x)`` is computed as
``(q W) x``, and ``W (a x)`` stands for ``a (W x)``. Where rows are embedded elements, that skips the embedding too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.ensemble import mlp


@dataclass(frozen=True)
class Rows:
    """Many rows ``value`` [B, N, width]: with a ``layer``, what it makes of ``raw`` [B, N, inputs]."""

    value: Tensor
    raw: Tensor | None = None
    layer: nn.Linear | None = None

    def products(self, vectors: Tensor, offset: Tensor) -> Tensor:
        """Inner products of all rows with ``vectors`` [B, R, width], and ``offset`` [B, R]: [B, N, R]."""
        if self.raw is None or self.layer is None:
            return torch.baddbmm(offset[:, None], self.value, vectors.mT)
        offset = offset + vectors @ self.layer.bias
        return torch.baddbmm(offset[:, None], self.raw, (vectors @ self.layer.weight).mT)

    def attention(self, queries: Tensor) -> Tensor:
        """Weights of all rows for ``queries`` [B, R, width], by a softmax over the rows: [B, R, N].

        The layer's bias adds the same to all scores of a query, and is left out.
        """
        if self.raw is None or self.layer is None:
            return (queries @ self.value.mT).softmax(-1)
        return (queries @ self.layer.weight @ self.raw.mT).softmax(-1)

    def averages(self, weights: Tensor) -> Tensor:
        """Averages of the rows by ``weights`` [B, R, N], which sum to 1: [B, R, width]."""
        if self.raw is None or self.layer is None:
            return weights @ self.value
        averages: Tensor = self.layer(weights @ self.raw)
        return averages


class AttentionBlock(nn.Module):
    """MAB(X, Y): rows of X attend to those of Y, and pass a linear layer; both with residuals and LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads, self.scale = width, heads, (width // heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mixed, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def few(self, x: Tensor, y: Rows) -> Tensor:
        """A few rows [B, n, width] attend to many [B, N, width] -> [B, n, width].

        The keys' bias, which adds the same to all scores of a query, is left out.
        """
        key, value = self.key_value.weight.view(
            2, self.heads, -1, self.width
        )  # [heads, width / heads, width]
        query = self.query(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        folded = (self.scale * query @ key).flatten(1, 2)  # [B, heads n, width]
        averages = y.averages(y.attention(folded)).view(len(x), self.heads, -1, self.width)
        seen = (averages @ value.mT).transpose(1, 2).flatten(2) + self.key_value.bias.chunk(2)[1]
        return self._after(x + self.mixed(seen))

    def many(self, x: Rows, y: Tensor) -> Tensor:
        """Many rows [B, N, width] attend to a few [B, n, width] -> [B, N, width]."""
        key, value = self.key_value(y).view(*y.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        query = self.query.weight.view(self.heads, -1, self.width)  # [heads, width / heads, width]
        bias = self.query.bias.view(self.heads, -1, 1)
        folded, offset = (self.scale * key @ query).flatten(1, 2), (self.scale * key @ bias).flatten(1)
        scores = x.products(folded, offset).view(*x.value.shape[:2], self.heads, -1)
        mixed = self.mixed.weight.view(self.width, self.heads, -1).permute(1, 2, 0)
        # The weights of each head sum to 1, so that the bias is the sum of its shares among the values.
        values = (value @ mixed).flatten(1, 2) + self.mixed.bias / self.heads  # [B, heads n, width]
        return self._after(torch.baddbmm(x.value, scores.softmax(-1).flatten(2), values))

    def _after(self, seen: Tensor) -> Tensor:
        x = self.first_norm(seen)
        result: Tensor = self.second_norm(x + F.relu(self.output(x), inplace=True))
        return result


class InducedAttention(nn.Module):
    """ISAB: a set attends to itself through ``points`` learned ones, in time linear in its size."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(1, points, width))
        nn.init.xavier_uniform_(self.points)
        self.gather, self.spread = AttentionBlock(width, heads), AttentionBlock(width, heads)

    def forward(self, x: Rows) -> Rows:
        """[B, N, width] -> [B, N, width]."""
        gathered = self.gather.few(self.points.expand(len(x.value), -1, -1), x)
        return Rows(self.spread.many(x, gathered))


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
        x = Rows(self.embed(elements), elements, self.embed)
        for layer in self.layers:
            x = layer(x)
        pooled = self.pool.few(self.seed.expand(len(elements), -1, -1), x)
        outputs: Tensor = self.head(pooled[:, 0])
        return outputs
