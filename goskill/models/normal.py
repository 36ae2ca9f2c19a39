"""Independent normal variables, free or squashed: skills, priors and the actions of stochastic actors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0  # of skills and priors, as SPiRL clips them
SQUASHED_LOG_STD_MIN, SQUASHED_LOG_STD_MAX = -5.0, 2.0


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


@dataclass(frozen=True)
class SquashedNormal:
    """``bound`` tanh(x) of independent normal x with ``mean`` and ``log_std``, both [..., action_dim]."""

    mean: Tensor
    log_std: Tensor
    bound: float = 1.0

    @classmethod
    def from_output(cls, output: Tensor, bound: float = 1.0) -> SquashedNormal:
        """From a network's output [..., 2 action_dim]; the log standard deviation is squashed into [-5, 2].

        As in spinning up's and CleanRL's SAC.
        """
        mean, raw = output.chunk(2, dim=-1)
        log_std = SQUASHED_LOG_STD_MIN + 0.5 * (SQUASHED_LOG_STD_MAX - SQUASHED_LOG_STD_MIN) * (
            torch.tanh(raw) + 1
        )
        return cls(mean, log_std, bound)

    def mode(self) -> Tensor:
        """The deterministic action: the squashed mean."""
        return self.bound * torch.tanh(self.mean)

    def at(self, noise: Tensor) -> Tensor:
        """The action that standard normal ``noise`` [..., action_dim] leads to."""
        return self.bound * torch.tanh(self.mean + self.log_std.exp() * noise)

    def sample(self) -> tuple[Tensor, Tensor]:
        """A reparameterised action [..., action_dim] and its log density [...]."""
        noise = torch.randn_like(self.mean)
        x = self.mean + self.log_std.exp() * noise
        normal = -0.5 * (noise.square() + math.log(2 * math.pi)) - self.log_std
        return self.bound * torch.tanh(x), (normal - self._log_slope(x)).sum(-1)

    def log_density(self, action: Tensor) -> Tensor:
        """The log density [...] of actions [..., action_dim], which are moved inside the interval by 1e-4 of it."""
        inside = 1 - 1e-4
        x = torch.atanh((action / self.bound).clamp(-inside, inside))
        scaled = (x - self.mean) * (-self.log_std).exp()
        normal = -0.5 * (scaled.square() + math.log(2 * math.pi)) - self.log_std
        return (normal - self._log_slope(x)).sum(-1)

    def _log_slope(self, x: Tensor) -> Tensor:
        """log of bound (1 - tanh(x)²), without cancellation."""
        return 2 * (math.log(2) - x - F.softplus(-2 * x)) + math.log(self.bound)
