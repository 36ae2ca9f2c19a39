"""Actor-critic updates the plain way: a module for each network, one after the other, as CleanRL's files have it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


def network(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for here, there in pairwise(sizes[:-1]):
        layers += [nn.Linear(here, there), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class PlainAgent:
    """Two critics, their targets, an actor and a temperature, each stepped by an Adam of its own.

    ``prior``: of skills; None: the entropy of actions squashed by tanh takes the place of the divergence from it.
    """

    def __init__(
        self, observation_dim: int, action_dim: int, actor: list[int], critic: list[int], prior: Any = None
    ) -> None:
        self.actor = network([observation_dim, *actor, 2 * action_dim])
        sizes = [observation_dim + action_dim, *critic, 1]
        self.critics, self.targets = ([network(sizes), network(sizes)] for _ in range(2))
        self.prior, self.aim = prior, -float(action_dim) if prior is None else -5.0
        self.log_temperature = torch.zeros(1, requires_grad=True)
        both = [*self.critics[0].parameters(), *self.critics[1].parameters()]
        self.critic_adam = torch.optim.Adam(both, lr=3e-4)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.temperature_adam = torch.optim.Adam([self.log_temperature], lr=3e-4)

    def act(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """An action, and what the temperature weighs: log density, or divergence from the prior."""
        mean, raw = self.actor(observations).chunk(2, -1)
        if self.prior is None:
            log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1)
            normal = torch.distributions.Normal(mean, log_std.exp())
            x = normal.rsample()
            action = torch.tanh(x)
            density = normal.log_prob(x) - torch.log(1 - action.pow(2) + 1e-6)
            return action, density.sum(1, keepdim=True)
        normal = torch.distributions.Normal(mean, raw.clamp(-10, 2).exp())
        with torch.no_grad():
            other, log_std = self.prior(observations).chunk(2, -1)
        prior = torch.distributions.Normal(other, log_std.clamp(-10, 2).exp())
        return normal.rsample(), torch.distributions.kl_divergence(normal, prior).sum(1, keepdim=True)

    def update(self, batch: Mapping[str, Tensor]) -> None:
        """One step of critics, actor, temperature and targets."""
        temperature = self.log_temperature.exp().item()
        with torch.no_grad():
            action, weighed = self.act(batch["next_observations"])
            together = torch.cat([batch["next_observations"], action], 1)
            future = torch.min(*(target(together) for target in self.targets)) - temperature * weighed
            goes_on = batch["discount"] * (1 - batch["terminated"].float())
            target = batch["rewards"] + goes_on * future.view(-1)
        together = torch.cat([batch["observations"], batch["actions"]], 1)
        loss = sum(F.mse_loss(critic(together).view(-1), target) for critic in self.critics)
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        action, weighed = self.act(batch["observations"])
        together = torch.cat([batch["observations"], action], 1)
        value = torch.min(*(critic(together) for critic in self.critics))
        self.actor_adam.zero_grad()
        (temperature * weighed - value).mean().backward()
        self.actor_adam.step()
        self.temperature_adam.zero_grad()
        (-self.log_temperature.exp() * (weighed.detach() + self.aim)).mean().backward()
        self.temperature_adam.step()
        for critic, target in zip(self.critics, self.targets, strict=True):
            for online, slow in zip(critic.parameters(), target.parameters(), strict=True):
                slow.data.copy_(0.005 * online.data + 0.995 * slow.data)
