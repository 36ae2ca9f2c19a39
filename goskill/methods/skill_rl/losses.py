"""What soft actor-critic over skills minimises: sums over agents of means over their own batches.

The divergence of the policy from the skill prior stands where soft actor-critic has the entropy (SPiRL, Eq. 4 to 7).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.methods.skill_rl.agents import SkillAgents
from goskill.training import Batch

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


def soft_target(batch: Batch, future: Tensor, reward_scale: float) -> Tensor:
    """What a decision was worth, [agents, B]: its rewards, and its ``discount`` times the regularised ``future``."""
    goes_on = batch["discount"] * (~batch["terminated"]).to(future.dtype)
    return reward_scale * batch["rewards"] + goes_on * future


def temperature_loss(temperature: Tensor, divergence: Tensor, target: float, *, falls: bool = True) -> Tensor:
    """Raises a temperature [agents] whose agent's divergence [agents, B] is above ``target``, lowers it below.

    Where ``falls`` is False it is left alone below.
    """
    room = (target - divergence.detach()).mean(1)
    return (temperature * (room if falls else room.clamp(max=0.0))).sum()


class SkillCriticLoss(nn.Module):
    """Squared error of both critics against the smaller target value less the weighted divergence."""

    def __init__(self, agents: SkillAgents) -> None:
        super().__init__()
        self.agents = agents

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Decisions [agents, B, ...], whose ``actions`` are skills -> loss, metrics."""
        agents, following = self.agents, batch["next_observations"]
        with torch.no_grad():
            policy = agents.policy(following)
            divergence = policy.divergence(agents.skills.prior(following))
            future = agents.values(following, policy.sample(), agents.target_critic).amin(1)
            future = future - agents.temperature.value[:, None] * divergence
            target = soft_target(batch, future, agents.settings.reward_scale)
        values = agents.values(batch["observations"], batch["actions"])
        loss = (values - target[:, None]).square().mean(2).sum()
        return loss, {"value": values.mean(), "target": target.mean()}


class SkillActorLoss(nn.Module):
    """The actors' objective, and the temperatures', each for its own parameters."""

    def __init__(self, agents: SkillAgents) -> None:
        super().__init__()
        self.agents = agents

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Decisions [agents, B, ...] -> loss, metrics."""
        agents, observations = self.agents, batch["observations"]
        policy = agents.policy(observations)
        with torch.no_grad():
            prior = agents.skills.prior(observations)
        divergence = policy.divergence(prior)
        value = agents.values(observations, policy.sample()).amin(1)
        temperature = agents.temperature.value.detach()
        actor = (temperature[:, None] * divergence - value).mean(1).sum()
        target = agents.settings.target_divergence
        loss = actor + temperature_loss(agents.temperature.value, divergence, target)
        metrics = {
            "divergence": divergence.mean(),
            "temperature": temperature.mean(),
            "value": value.mean(),
        }
        return loss, metrics
