"""Several multilayer perceptrons of one shape as one batched computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    """``members`` linear layers, applied by one batched matrix product. Initialised as ``nn.Linear``."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[E, B, inputs] -> [E, B, outputs]; the first members alone for inputs of fewer."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if x.shape[0] < weight.shape[0]:
            weight, bias = weight[: x.shape[0]], bias[: x.shape[0]]
        if weight.shape[2] == 1 and x.dtype == torch.float32 and x.device.type == "cpu":
            # MKL's batched product takes four times as long, forward and backward.
            return (x * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
        return torch.baddbmm(bias, x, weight)


class EnsembleMLP(nn.Module):
    """``members`` multilayer perceptrons with ReLU between their layers.

    Args:
        members: E, such as the two critics of a pair, or those of several agents.
        sizes: of the input, the hidden layers and the output.
    """

    def __init__(self, members: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList(EnsembleLinear(members, here, there) for here, there in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs], the same for all members, or [E, B, inputs] -> [E, B, outputs].

        [1, B, inputs] are the first member's alone.
        """
        if x.ndim == 2:
            x = x.expand(self.members, *x.shape)
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        outputs: Tensor = last(x)
        return outputs

    def of_members(self, x: Tensor, member: Tensor) -> Tensor:
        """Each row by a member of its own: [N, inputs], int64 [N] -> [N, outputs]."""
        x = x[:, None]
        layers: Any = self.layers
        for index, layer in enumerate(layers):
            x = torch.baddbmm(layer.bias[member], x, layer.weight[member])
            if index < len(layers) - 1:
                x = F.relu(x)
        return x[:, 0]


def twin_values(critics: nn.Module, inputs: Tensor) -> Tensor:
    """What the two critics of each agent, which follow one another, give for inputs [agents, B, n].

    Returns float32 [agents, 2, B, outputs].
    """
    values: Tensor = critics(inputs.repeat_interleave(2, dim=0))
    return values.float().view(len(inputs), 2, *values.shape[1:])


def mlp(sizes: Sequence[int], *, last: type[nn.Module] | None = None) -> nn.Sequential:
    """A multilayer perceptron with ReLU between its layers, and ``last`` behind them."""
    hidden = [part for here, there in pairwise(sizes[:-1]) for part in (nn.Linear(here, there), nn.ReLU())]
    end = [] if last is None else [last()]
    return nn.Sequential(*hidden, nn.Linear(sizes[-2], sizes[-1]), *end)
