"""A normal distribution with independent dimensions: skill priors, posteriors and policies over skills."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


@dataclass(frozen=True)
class DiagonalNormal:
    """Independent normal variables with ``mean`` and ``log_std``, both [..., dim]."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def from_output(cls, output: Tensor) -> DiagonalNormal:
        """From a network's output [..., 2 dim]; the log standard deviation is clipped to [-10, 2], as SPiRL does."""
        mean, log_std = output.float().chunk(2, dim=-1)
        return cls(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def sample(self) -> Tensor:
        """A reparameterised sample [..., dim]."""
        return self.at(torch.randn_like(self.mean))

    def at(self, noise: Tensor) -> Tensor:
        """What standard normal ``noise`` [..., dim] leads to."""
        return self.mean + self.log_std.exp() * noise

    def log_density(self, x: Tensor) -> Tensor:
        """The log density of each dimension of x [..., dim]."""
        scaled = (x - self.mean) * (-self.log_std).exp()
        return -0.5 * (scaled.square() + math.log(2 * math.pi)) - self.log_std

    def divergence(self, other: DiagonalNormal) -> Tensor:
        """KL(self || other) in nats, summed over the dimensions: [...]."""
        ratio = (2 * (self.log_std - other.log_std)).exp()
        distance = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return (0.5 * (ratio + distance - 1) + other.log_std - self.log_std).sum(-1)

    def divergence_from_standard(self) -> Tensor:
        """KL(self || N(0, 1)) in nats of each dimension: [..., dim]."""
        return 0.5 * (self.mean.square() + (2 * self.log_std).exp() - 1) - self.log_std
