"""Agents of target tasks: copies of the meta-trained one, each given the embedding of its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.feedforward import agents_in
from goskill.methods.sequence.checking import loaded
from goskill.methods.simpl.decisions import DecisionDistribution, SingleActions, decisions
from goskill.methods.simpl.networks import LARGE, MetaAgent, skills_from_state
from goskill.methods.simpl.settings import AdaptationSettings
from goskill.methods.skill_rl import SkillModel, soft_target, temperature_loss
from goskill.models import EnsembleMLP, twin_values
from goskill.models.temperature import Temperature
from goskill.training import Batch
from goskill.training.targets import TargetNetwork


class KnownTasks(nn.Module):
    """The embedding of each agent's task, and the step of its environment from which it is known; -1: not yet."""

    embedding: Tensor
    since: Tensor

    def __init__(self, agents: int, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("embedding", torch.zeros(agents, embedding_dim))
        self.register_buffer("since", torch.full((agents,), -1))


class TargetAgents(nn.Module):
    """Agents for ``settings.tasks``, each as one batched network: batches are [agents, B, ...], observations raw."""

    def __init__(self, settings: AdaptationSettings, skills: SkillModel | SingleActions) -> None:
        super().__init__()
        if not settings.tasks:
            raise InputError("tasks: expected at least one, got none")
        self.settings, self.skills = settings, skills
        self.agents = len(settings.tasks)
        hidden = [settings.width] * settings.layers
        seen = skills.observation_dim + settings.embedding_dim
        self.actor = EnsembleMLP(self.agents, [seen, *hidden, 2 * skills.skill_size])
        # The two critics of an agent follow one another.
        self.critic = EnsembleMLP(2 * self.agents, [seen + skills.skill_size, *hidden, 1])
        self.temperature = Temperature(self.agents, 1.0)
        self.target = TargetNetwork(self.critic, settings.target_rate)
        self.target_critic = self.target.module
        self.known = KnownTasks(self.agents, settings.embedding_dim)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name, those of the skills included: what a checkpoint holds."""
        return {
            **self.skills.parts,
            "actor": self.actor,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "temperature": self.temperature,
            "known_tasks": self.known,
        }

    @torch.no_grad()
    def begin_as(self, meta: MetaAgent) -> None:
        """Take over policy, critics and the temperature of large contexts."""
        for own, trained in zip(self.actor.parameters(), meta.policy_network.parameters(), strict=True):
            own.copy_(trained.expand_as(own))
        for critic, source in ((self.critic, meta.critic), (self.target_critic, meta.target_critic)):
            for own, trained in zip(critic.parameters(), source.parameters(), strict=True):
                own.copy_(trained.repeat(self.agents, *[1] * (trained.ndim - 1)))
        self.temperature.log_value.fill_(float(meta.temperatures()[LARGE].log()))

    def policy(self, observations: Tensor) -> DecisionDistribution:
        """Of each agent, for observations [agents, B, observation_dim]."""
        embedding = self.known.embedding[:, None].expand(-1, observations.shape[1], -1)
        seen = torch.cat([self.skills.normalize(observations), embedding], -1)
        return decisions(self.skills, observations, self.actor(seen), self.settings)

    def policy_with(self, agent: Tensor, observations: Tensor, embedding: Tensor) -> DecisionDistribution:
        """Decisions of agents int64 [N] for observations [N, observation_dim], given embeddings [N, embedding_dim]."""
        seen = torch.cat([self.skills.normalize(observations), embedding], -1)
        output = self.actor.of_members(seen, agent)
        return decisions(self.skills, observations, output, self.settings)

    def policy_in(self, tasks: Sequence[str]) -> Callable[[Tensor], DecisionDistribution]:
        """What maps observations [N, observation_dim] in N tasks to what each agent may decide.

        Raises InputError for a task that no agent has learned.
        """
        agent = self.agent_of(tasks)
        return lambda observations: self.policy_with(agent, observations, self.known.embedding[agent])

    def values(self, observations: Tensor, skill: Tensor, critic: nn.Module | None = None) -> Tensor:
        """What both critics (or the target critics) of each agent expect: [agents, 2, B]."""
        embedding = self.known.embedding[:, None].expand(-1, observations.shape[1], -1)
        seen = torch.cat([self.skills.normalize(observations), embedding, skill], -1)
        return twin_values(self.critic if critic is None else critic, seen)[..., 0]

    def agent_of(self, tasks: Sequence[str]) -> Tensor:
        """Which agent acts in each task, int64 [len(tasks)]. Raises InputError for a task that none has learned."""
        return agents_in(tasks, self.settings.tasks, self.known.since.device)


class TargetCriticLoss(nn.Module):
    """Squared error against the soft target; agents whose task is not known yet do not count, and stay as they are."""

    def __init__(self, agents: TargetAgents) -> None:
        super().__init__()
        self.agents = agents

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Decisions [agents, B, ...] -> loss, metrics."""
        agents, following = self.agents, batch["next_observations"]
        with torch.no_grad():
            decided, cost = agents.policy(following).sample_for_target()
            future = agents.values(following, decided, agents.target_critic).amin(1)
            future = future - agents.temperature.value[:, None] * cost
            target = soft_target(batch, future, agents.settings.reward_scale)
        values = agents.values(batch["observations"], batch["actions"])
        error = (values - target[:, None]).square().mean(2).sum(1)
        loss = torch.where(agents.known.since >= 0, error, 0.0).sum()
        return loss, {"value": values.mean(), "target": target.mean()}


class TargetActorLoss(nn.Module):
    """The actors' objective and the temperatures' (SiMPL, Eq. 5), likewise of agents whose task is known."""

    def __init__(self, agents: TargetAgents) -> None:
        super().__init__()
        self.agents = agents

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Decisions [agents, B, ...] -> loss, metrics."""
        agents, observations = self.agents, batch["observations"]
        known = agents.known.since >= 0
        decided, cost = agents.policy(observations).sample_with_cost()
        value = agents.values(observations, decided).amin(1)
        temperature = agents.temperature.value.detach()
        actor = (temperature[:, None] * cost - value).mean(1)
        # An agent that is not known yet is at its aim, which leaves its temperature alone.
        aim = agents.settings.aim(agents.skills.skill_size)
        counted = torch.where(known[:, None], cost.detach(), aim)
        loss = torch.where(known, actor, 0.0).sum()
        loss = loss + temperature_loss(
            agents.temperature.value, counted, aim, falls=agents.settings.temperature_falls
        )
        metrics = {"cost": cost.mean(), "temperature": temperature.mean(), "value": value.mean()}
        return loss, metrics


def target_agents_from_state(
    settings: AdaptationSettings, state: Mapping[str, Mapping[str, Tensor]]
) -> TargetAgents:
    """The agents of a checkpoint: ``state`` maps the names of ``TargetAgents.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    return loaded(TargetAgents(settings, skills_from_state(settings, state, "actor")), state)
