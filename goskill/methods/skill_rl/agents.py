"""Agents that choose skills: actors, twin critics and temperatures, each as one batched network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.feedforward import agents_in
from goskill.methods.sequence.checking import loaded
from goskill.methods.skill_rl.settings import OnlineSettings
from goskill.methods.skill_rl.skill_model import SkillModel, model_from_state
from goskill.models import DiagonalNormal, EnsembleMLP, twin_values
from goskill.models.temperature import Temperature
from goskill.training.targets import TargetNetwork


class SkillAgents(nn.Module):
    """Agents for ``settings.tasks`` over the skills of a model: batches are [agents, B, ...], observations raw."""

    def __init__(self, settings: OnlineSettings, skills: SkillModel) -> None:
        super().__init__()
        if not settings.tasks:
            raise InputError("tasks: expected at least one, got none")
        self.settings, self.skills = settings, skills
        self.agents = len(settings.tasks)
        self.actor = EnsembleMLP(self.agents, skills.prior_sizes)
        hidden = [settings.critic_width] * settings.critic_layers
        # The two critics of an agent follow one another.
        self.critic = EnsembleMLP(2 * self.agents, [skills.observation_dim + settings.skill_dim, *hidden, 1])
        self.temperature = Temperature(self.agents, settings.initial_temperature)
        self.target = TargetNetwork(self.critic, settings.target_rate)
        self.target_critic = self.target.module

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name, those of the skills included: what a checkpoint holds."""
        return {
            **self.skills.parts,
            "actor": self.actor,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "temperature": self.temperature,
        }

    @torch.no_grad()
    def begin_as_prior(self) -> None:
        """Give every actor the prior's weights."""
        self.begin_as(self.skills.prior_network.state_dict())

    @torch.no_grad()
    def begin_as(self, network: Mapping[str, Tensor]) -> None:
        """Give every actor the weights of one network of the prior's shape, by their names."""
        for name, own in self.actor.named_parameters():
            own.copy_(network[name].expand_as(own))

    def policy(self, observations: Tensor) -> DiagonalNormal:
        """Each agent's distribution of skills for observations [agents, B, observation_dim]."""
        return DiagonalNormal.from_output(self.actor(self.skills.normalize(observations)))

    def policy_in(self, tasks: Sequence[str]) -> Callable[[Tensor], DiagonalNormal]:
        """What maps observations [N, observation_dim] in N tasks to each agent's distribution of skills.

        Raises InputError for a task that no agent has learned.
        """
        agent = self.agent_of(tasks)

        def policy(observations: Tensor) -> DiagonalNormal:
            output = self.actor.of_members(self.skills.normalize(observations), agent)
            return DiagonalNormal.from_output(output)

        return policy

    def values(self, observations: Tensor, skill: Tensor, critic: nn.Module | None = None) -> Tensor:
        """What both critics (or the target critics) of each agent expect: [agents, 2, B]."""
        inputs = torch.cat([self.skills.normalize(observations), skill], -1)
        return twin_values(self.critic if critic is None else critic, inputs)[..., 0]

    def agent_of(self, tasks: Sequence[str]) -> Tensor:
        """Which agent acts in each task, int64 [len(tasks)]. Raises InputError for a task that none has learned."""
        return agents_in(tasks, self.settings.tasks, self.temperature.log_value.device)


def agents_from_state(settings: OnlineSettings, state: Mapping[str, Mapping[str, Tensor]]) -> SkillAgents:
    """The agents of a checkpoint: ``state`` maps the names of ``SkillAgents.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    return loaded(SkillAgents(settings, model_from_state(settings, state)), state)
