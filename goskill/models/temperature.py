"""The weight of an actor's regulariser, which soft actor-critic learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """The weight of the entropy, or of the divergence from a prior, of each agent, learned as its logarithm.

    Args:
        agents: how many learn side by side.
        initial: the weights at the beginning.
    """

    def __init__(self, agents: int, initial: float) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.full((agents,), math.log(initial)))

    @property
    def value(self) -> Tensor:
        """The weights, [agents]."""
        return self.log_value.exp()
