"""What meta-training minimises: means over all tasks of a step, computed as one batch (SiMPL, Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.methods.simpl.networks import LARGE, SMALL, MetaAgent
from goskill.methods.simpl.sampling import LARGE_PREFIX, SMALL_PREFIX, part
from goskill.methods.skill_rl import soft_target, temperature_loss
from goskill.models import DiagonalNormal
from goskill.training import Batch


class MetaLoss(nn.Module):
    """Critics and encoder learn the soft value, the policy to reach it, the temperatures what decisions cost.

    The policy's gradients reach neither critics nor encoder, as the paper has it.
    """

    def __init__(self, agent: MetaAgent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``TaskSampler`` -> loss, metrics."""
        posterior = self._posterior(batch)
        embedding = self._embeddings(posterior, batch["rewards"].shape[1])
        critic, values = self._critic(batch, embedding)
        actor, metrics = self._actor(batch, embedding.detach())
        surprise = posterior.divergence_from_standard().sum(-1)
        loss = critic + actor + self._pull(surprise)
        return loss, {
            "critic_loss": critic,
            "value": values,
            "embedding_divergence": surprise.mean(),
            **metrics,
        }

    def _embeddings(self, posterior: DiagonalNormal, count: int) -> Tensor:
        """Drawn once for each of a step's tasks, or for each of their ``count`` decisions: [tasks, count, dim]."""
        mean, log_std = (one[:, None].expand(-1, count, -1) for one in (posterior.mean, posterior.log_std))
        if self.agent.settings.shared_embedding:
            return posterior.sample()[:, None].expand_as(mean)
        return DiagonalNormal(mean, log_std).sample()

    def _pull(self, surprise: Tensor) -> Tensor:
        """What embeddings [tasks] nats from N(0, 1) cost; weights that are learned rise above their aims."""
        agent, settings = self.agent, self.agent.settings
        if agent.embedding_weights is None:
            return settings.embedding_weight * surprise.mean()
        few, learned = settings.small_tasks, agent.embedding_weights.value
        cost = surprise.new_zeros(())
        for place, found in ((SMALL, surprise[:few]), (LARGE, surprise[few:])):
            aim = settings.embedding_aims[place]
            cost = cost + learned[place].detach() * found.sum() / len(surprise)
            if aim is not None and len(found):
                cost = cost + temperature_loss(learned[place, None], found[None], aim, falls=False)
        return cost

    def _posterior(self, batch: Batch) -> DiagonalNormal:
        """Embeddings of a step's tasks: those with small contexts come first."""
        settings = self.agent.settings
        found = []
        if settings.small_tasks:
            found.append(self.agent.encode(part(batch, SMALL_PREFIX)))
        if settings.small_tasks < settings.tasks_per_step:
            found.append(self.agent.encode(part(batch, LARGE_PREFIX)))
        return DiagonalNormal(
            torch.cat([one.mean for one in found]), torch.cat([one.log_std for one in found])
        )

    def _weights(self) -> Tensor:
        """The temperature of each task of a step, [tasks, 1]."""
        settings, both = self.agent.settings, self.agent.temperatures().detach()
        large = settings.tasks_per_step - settings.small_tasks
        return torch.cat([both[SMALL].expand(settings.small_tasks), both[LARGE].expand(large)])[:, None]

    def _critic(self, batch: Batch, embedding: Tensor) -> tuple[Tensor, Tensor]:
        agent, following = self.agent, batch["next_observations"]
        with torch.no_grad():
            decided, cost = agent.policy(following, embedding).sample_for_target()
            weights = dict(agent.target_critic.named_parameters())
            future = agent.values(following, embedding, decided, weights).amin(0)
            future = future - self._weights() * cost
            target = soft_target(batch, future, agent.settings.reward_scale)
        values = agent.values(batch["observations"], embedding, batch["actions"])
        return (values - target).square().mean((1, 2)).sum(), values.mean()

    def _actor(self, batch: Batch, embedding: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        agent, settings, observations = self.agent, self.agent.settings, batch["observations"]
        decided, cost = agent.policy(observations, embedding).sample_with_cost()
        fixed = {name: weight.detach() for name, weight in agent.critic.named_parameters()}
        value = agent.values(observations, embedding, decided, fixed).amin(0)
        loss = (self._weights() * cost - value).mean()
        found = cost.detach()
        small, large = found[: settings.small_tasks], found[settings.small_tasks :]
        both, aims = agent.temperatures(), settings.aims(agent.skills.skill_size)
        metrics: dict[str, Tensor] = {}
        for name, place, found, aim in (
            ("small", SMALL, small, aims[SMALL]),
            ("large", LARGE, large, aims[LARGE]),
        ):
            if not len(found):
                continue
            costs, falls = found.flatten()[None], settings.temperature_falls
            loss = loss + temperature_loss(both[place, None], costs, aim, falls=falls)
            metrics |= {f"{name}_cost": found.mean(), f"{name}_temperature": both[place]}
        return loss, metrics
