"""One policy for all tasks, from the agents that learned each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.methods.skill_rl import SkillAgents, temperature_loss
from goskill.models import DiagonalNormal, EnsembleMLP
from goskill.models.temperature import Temperature
from goskill.training import Batch


class SharedPolicy(nn.Module):
    """pi_0(z | s), in the shape of the skill prior and of the agents' actors; it is not told the task."""

    def __init__(self, agents: SkillAgents, initial_temperature: float) -> None:
        super().__init__()
        self._agents = [agents]  # in a list: not a module of this one
        self.actor = EnsembleMLP(1, agents.skills.prior_sizes)
        self.temperature = Temperature(1, initial_temperature)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Both by name: what a checkpoint holds."""
        return {"shared_actor": self.actor, "shared_temperature": self.temperature}

    @torch.no_grad()
    def begin_as_prior(self) -> None:
        """Take the prior's weights."""
        self.actor.load_state_dict(self._agents[0].skills.prior_network.state_dict())

    def policy(self, observations: Tensor) -> DiagonalNormal:
        """Skills for observations [..., observation_dim]."""
        flat = self._agents[0].skills.normalize(observations).flatten(0, -2)
        return DiagonalNormal.from_output(self.actor(flat)[0].view(*observations.shape[:-1], -1))


class DistillationLoss(nn.Module):
    """Eq. 6: in states of every task, skills that its own critics value, near the skill prior on average."""

    def __init__(self, shared: SharedPolicy, agents: SkillAgents, target_divergence: float) -> None:
        super().__init__()
        self.shared, self.agents, self.target_divergence = shared, agents, target_divergence

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Decisions [tasks, B, ...] of the agents' buffers -> loss, metrics."""
        observations = batch["observations"]
        policy = self.shared.policy(observations)
        with torch.no_grad():
            prior = self.agents.skills.prior(observations)
        divergence = policy.divergence(prior)
        value = self.agents.values(observations, policy.sample()).amin(1)
        temperature = self.shared.temperature.value
        loss = (temperature.detach() * divergence - value).mean()
        excess = temperature_loss(temperature, divergence.flatten()[None], self.target_divergence)
        metrics = {"divergence": divergence.mean(), "temperature": temperature.mean(), "value": value.mean()}
        return loss + excess, metrics
