"""Actor-critic as single-file implementations do it: eager, a module per network, targets parameter by parameter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Arrays = dict[str, np.ndarray]


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    parts: list[nn.Module] = []
    for here, there in pairwise(sizes):
        parts += [nn.Linear(here, there), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def copy_member(target: nn.Sequential, source: nn.Module, member: int) -> None:
    """The weights of one member of an ``EnsembleMLP``."""
    linear = [layer for layer in target if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for own, other in zip(linear, source.layers, strict=True):  # type: ignore[call-overload, arg-type]
            own.weight.copy_(other.weight[member].T)
            own.bias.copy_(other.bias[member, 0])


def soft_update(target: nn.Module, source: nn.Module, rate: float) -> None:
    """One parameter after the other."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.data.copy_(rate * fast.data + (1 - rate) * slow.data)


class PlainTD3BC:
    """TD3+BC as CORL's one file trains it; the batch is indexed out of NumPy arrays in memory."""

    def __init__(self, columns: Arrays, width: int, layers: int, batch_size: int, noise: float = 0.2) -> None:
        state, action = columns["observations"].shape[1], columns["actions"].shape[1]
        hidden = [width] * layers
        self.columns, self.batch_size, self.noise = columns, batch_size, noise
        self.actor, self.actor_target = (perceptron([state, *hidden, action]) for _ in range(2))
        self.critics = [perceptron([state + action, *hidden, 1]) for _ in range(2)]
        self.targets = [perceptron([state + action, *hidden, 1]) for _ in range(2)]
        self.optimizers = [torch.optim.Adam(one.parameters(), lr=1e-4) for one in (self.actor, *self.critics)]
        self.random = np.random.default_rng(0)
        self.iteration = 0

    def sample(self) -> dict[str, Tensor]:
        rows = self.random.integers(0, len(self.columns["rewards"]), self.batch_size)
        return {name: torch.from_numpy(values[rows]) for name, values in self.columns.items()}

    def value(self, critic: nn.Module, state: Tensor, action: Tensor) -> Tensor:
        values: Tensor = critic(torch.cat([state, action], 1))[:, 0]
        return values

    def critic_loss(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            noise = (torch.randn_like(batch["actions"]) * self.noise).clamp(-0.5, 0.5)
            following = batch["next_observations"]
            action = (torch.tanh(self.actor_target(following)) + noise).clamp(-1, 1)
            future = torch.min(*(self.value(target, following, action) for target in self.targets))
            target = batch["rewards"] + 0.99 * (1 - batch["terminated"].float()) * future
        found = [self.value(critic, batch["observations"], batch["actions"]) for critic in self.critics]
        return F.mse_loss(found[0], target) + F.mse_loss(found[1], target)

    def actor_loss(self, batch: dict[str, Tensor]) -> Tensor:
        action = torch.tanh(self.actor(batch["observations"]))
        value = self.value(self.critics[0], batch["observations"], action)
        scale = 2.5 / value.abs().mean().detach()
        return -scale * value.mean() + F.mse_loss(action, batch["actions"])

    def update(self) -> None:
        self.iteration += 1
        batch = self.sample()
        loss = self.critic_loss(batch)
        for optimizer in self.optimizers[1:]:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers[1:]:
            optimizer.step()
        if self.iteration % 2 == 0:
            error = self.actor_loss(batch)
            self.optimizers[0].zero_grad()
            error.backward()
            self.optimizers[0].step()
            for target, source in zip(self.targets, self.critics, strict=True):
                soft_update(target, source, 0.005)
            soft_update(self.actor_target, self.actor, 0.005)


class PlainSAC:
    """One agent of soft actor-critic as CleanRL's one file trains it."""

    def __init__(self, columns: Arrays, width: int, layers: int, batch_size: int) -> None:
        state, action = columns["observations"].shape[1], columns["actions"].shape[1]
        hidden = [width] * layers
        self.columns, self.batch_size, self.entropy = columns, batch_size, -float(action)
        self.actor = perceptron([state, *hidden, 2 * action])
        self.critics = [perceptron([state + action, *hidden, 1]) for _ in range(2)]
        self.targets = [perceptron([state + action, *hidden, 1]) for _ in range(2)]
        self.log_temperature = torch.zeros(1, requires_grad=True)
        values = [parameter for critic in self.critics for parameter in critic.parameters()]
        self.value_optimizer = torch.optim.Adam(values, lr=3e-4)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], lr=3e-4)
        self.random = np.random.default_rng(0)

    def act(self, state: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor(state).chunk(2, -1)
        std = torch.exp(-5 + 3.5 * (torch.tanh(raw) + 1))
        normal = torch.distributions.Normal(mean, std)
        unsquashed = normal.rsample()
        action = torch.tanh(unsquashed)
        density = normal.log_prob(unsquashed) - torch.log(1 - action**2 + 1e-6)
        return action, density.sum(1)

    def value(self, critic: nn.Module, state: Tensor, action: Tensor) -> Tensor:
        values: Tensor = critic(torch.cat([state, action], 1))[:, 0]
        return values

    def critic_loss(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            action, density = self.act(batch["next_observations"])
            future = torch.min(*(self.value(one, batch["next_observations"], action) for one in self.targets))
            future = future - self.log_temperature.exp() * density
            target = batch["rewards"] + 0.99 * (1 - batch["terminated"].float()) * future
        found = [self.value(critic, batch["observations"], batch["actions"]) for critic in self.critics]
        return F.mse_loss(found[0], target) + F.mse_loss(found[1], target)

    def update(self) -> None:
        rows = self.random.integers(0, len(self.columns["rewards"]), self.batch_size)
        batch = {name: torch.from_numpy(values[rows]) for name, values in self.columns.items()}
        loss = self.critic_loss(batch)
        self.value_optimizer.zero_grad()
        loss.backward()
        self.value_optimizer.step()
        action, density = self.act(batch["observations"])
        value = torch.min(*(self.value(one, batch["observations"], action) for one in self.critics))
        error = (self.log_temperature.exp().detach() * density - value).mean()
        self.actor_optimizer.zero_grad()
        error.backward()
        self.actor_optimizer.step()
        surplus = (-self.log_temperature.exp() * (density.detach() + self.entropy)).mean()
        self.temperature_optimizer.zero_grad()
        surplus.backward()
        self.temperature_optimizer.step()
        for target, source in zip(self.targets, self.critics, strict=True):
            soft_update(target, source, 0.005)
