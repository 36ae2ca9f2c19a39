"""What soft actor-critic minimises: sums over agents of means over their own batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.methods.sac.networks import SACNetworks
from goskill.training import Batch

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class CriticLoss(nn.Module):
    """Squared error of both critics against the smaller target value less the weighted log density (Eq. 5 and 6)."""

    def __init__(self, networks: SACNetworks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Transitions [agents, B, ...] -> loss, metrics."""
        networks, settings = self.networks, self.networks.settings
        with torch.no_grad():
            action, density = networks.distribution(batch["next_observations"]).sample()
            future = networks.values(batch["next_observations"], action, networks.target_critic).amin(1)
            future = future - networks.temperature.log_value.exp()[:, None] * density
            goes_on = settings.discount * (~batch["terminated"]).to(future.dtype)
            target = settings.reward_scale * batch["rewards"] + goes_on * future
        values = networks.values(batch["observations"], batch["actions"])
        loss = (values - target[:, None]).square().mean(2).sum()
        by_agent = values.mean((1, 2))
        return loss, {"value": values.mean(), "target": target.mean(), "value_of_task": by_agent}


class CloningLoss(nn.Module):
    """Minus the log density of the actions of a store, for every actor."""

    def __init__(self, networks: SACNetworks, low: Tensor, high: Tensor) -> None:
        """``low`` and ``high`` [action_dim]: the bounds of the store's actions, which are those of the suite."""
        super().__init__()
        self.networks = networks
        device = networks.temperature.log_value.device
        self._middle, self._half = ((low + high) / 2).to(device), ((high - low) / 2).to(device)

    def forward(self, batch: Batch) -> LossAndMetrics:
        """A batch of ``SegmentSampler`` with horizon 1, not normalised -> loss, metrics."""
        actions = (batch["actions"][:, 0] - self._middle) / self._half
        observations = batch["observations"][:, 0].expand(self.networks.agents, -1, -1)
        policy = self.networks.distribution(observations)
        loss = -policy.log_density(actions).mean(1).sum()
        error = (policy.mode() - actions).square().mean()
        return loss, {"action_error": error.detach()}


class ActorLoss(nn.Module):
    """The actors' objective (Eq. 9) and the temperatures' (Eq. 18), each for its own parameters."""

    def __init__(self, networks: SACNetworks) -> None:
        super().__init__()
        self.networks = networks
        wanted = networks.settings.target_entropy
        self.target_entropy = -float(networks.action_dim) if wanted is None else wanted

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Transitions [agents, B, ...] -> loss, metrics."""
        networks = self.networks
        action, density = networks.distribution(batch["observations"]).sample()
        value = networks.values(batch["observations"], action).amin(1)
        logarithm = networks.temperature.log_value
        temperature = logarithm.exp().detach()
        actor = (temperature[:, None] * density - value).mean(1).sum()
        surplus = (density.detach() + self.target_entropy).mean(1)
        loss = actor - (logarithm.exp() * surplus).sum()
        return loss, {
            "entropy": -density.mean(),
            "temperature": temperature.mean(),
            "value": value.mean(),
            "temperature_of_task": temperature,
        }
