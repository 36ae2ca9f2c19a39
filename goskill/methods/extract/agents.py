"""Agents that choose a skill and its argument, each network of all agents as one batched network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.extract.model import ExtractModel, model_from_state
from goskill.methods.extract.settings import ExtractSettings
from goskill.methods.feedforward import agents_in
from goskill.methods.sequence.checking import loaded
from goskill.models import DiagonalNormal, EnsembleMLP, twin_values
from goskill.training.targets import TargetNetwork


@dataclass(frozen=True)
class SkillChoice:
    """log pi(d | s), [..., K], and pi(z | s, d), [..., K, argument_dim]."""

    log_choice: Tensor
    argument: DiagonalNormal

    @property
    def mean(self) -> Tensor:
        """The likeliest skill with its mean argument, [..., argument_dim + 1]."""
        return _with_argument(self.log_choice.argmax(-1), self.argument.mean)

    def sample(self) -> Tensor:
        """A skill and its argument, drawn: [..., argument_dim + 1]."""
        flat = self.log_choice.exp().flatten(0, -2)
        choice = torch.multinomial(flat, 1).view(self.log_choice.shape[:-1])
        return _with_argument(choice, self.argument.sample())

    def divergences(self, log_prior: Tensor, prior: DiagonalNormal) -> tuple[Tensor, Tensor]:
        """KL of the choice from its prior, [...], and of each skill's argument from its own, [..., K], in nats."""
        choice = (self.log_choice.exp() * (self.log_choice - log_prior)).sum(-1)
        return choice, self.argument.divergence(prior)


def _with_argument(choice: Tensor, arguments: Tensor) -> Tensor:
    place = choice[..., None, None].expand(*choice.shape, 1, arguments.shape[-1])
    chosen = arguments.gather(-2, place)[..., 0, :]
    return torch.cat([chosen, choice[..., None].to(chosen.dtype)], -1)


class ExtractAgents(nn.Module):
    """Agents for ``settings.tasks`` over the skills of a model: batches are [agents, B, ...], observations raw."""

    def __init__(self, settings: ExtractSettings, skills: ExtractModel) -> None:
        super().__init__()
        if not settings.tasks:
            raise InputError("tasks: expected at least one, got none")
        self.settings, self.skills = settings, skills
        self.agents = len(settings.tasks)
        self.choice_actor = EnsembleMLP(self.agents, skills.sizes(settings.clusters))
        self.argument_actor = EnsembleMLP(
            self.agents, skills.sizes(2 * settings.clusters * settings.argument_dim)
        )
        hidden = [settings.critic_width] * settings.critic_layers
        inputs = skills.observation_dim + settings.argument_dim
        # The two critics of an agent follow one another, with an output for each skill.
        self.critic = EnsembleMLP(2 * self.agents, [inputs, *hidden, settings.clusters])
        self.target = TargetNetwork(self.critic, settings.target_rate)
        self.target_critic = self.target.module

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name, those of the skills included: what a checkpoint holds."""
        return {
            **self.skills.parts,
            "choice_actor": self.choice_actor,
            "argument_actor": self.argument_actor,
            "critic": self.critic,
            "target_critic": self.target_critic,
        }

    @torch.no_grad()
    def begin_as_priors(self) -> None:
        """Give every actor its prior's weights."""
        for actor, prior in (
            (self.choice_actor, self.skills.choice_prior),
            (self.argument_actor, self.skills.argument_prior),
        ):
            for own, other in zip(actor.parameters(), prior.parameters(), strict=True):
                own.copy_(other.expand_as(own))

    def policy(self, observations: Tensor) -> SkillChoice:
        """Each agent's choice for observations [agents, B, observation_dim]."""
        states = self.skills.normalize(observations)
        log_choice = self.choice_actor(states).float().log_softmax(-1)
        return SkillChoice(log_choice, self.skills.arguments(self.argument_actor(states)))

    def policy_in(self, tasks: Sequence[str]) -> Callable[[Tensor], SkillChoice]:
        """What maps observations [N, observation_dim] in N tasks to each agent's choice.

        Raises InputError for a task that no agent has learned.
        """
        agent = self.agent_of(tasks)

        def policy(observations: Tensor) -> SkillChoice:
            states = self.skills.normalize(observations)
            log_choice = self.choice_actor.of_members(states, agent).float().log_softmax(-1)
            return SkillChoice(
                log_choice, self.skills.arguments(self.argument_actor.of_members(states, agent))
            )

        return policy

    def values(self, observations: Tensor, argument: Tensor, critic: nn.Module | None = None) -> Tensor:
        """What both critics (or the target critics) expect of every skill with one argument: [agents, 2, B, K]."""
        states = self.skills.normalize(observations)
        inputs = torch.cat([states, argument], -1)
        return twin_values(self.critic if critic is None else critic, inputs)

    def values_of_each(
        self, observations: Tensor, arguments: Tensor, critic: nn.Module | None = None
    ) -> Tensor:
        """The same of every skill with an argument of its own [agents, B, K, argument_dim]: [agents, 2, B, K]."""
        agents, batch, clusters, size = arguments.shape
        states = observations[:, :, None].expand(-1, -1, clusters, -1).reshape(agents, batch * clusters, -1)
        values = self.values(states, arguments.reshape(agents, batch * clusters, size), critic)
        return values.view(agents, 2, batch, clusters, clusters).diagonal(dim1=-2, dim2=-1)

    def agent_of(self, tasks: Sequence[str]) -> Tensor:
        """Which agent acts in each task, int64 [len(tasks)]. Raises InputError for a task that none has learned."""
        return agents_in(tasks, self.settings.tasks, self.skills.normalize.mean.device)


def agents_from_state(settings: ExtractSettings, state: Mapping[str, Mapping[str, Tensor]]) -> ExtractAgents:
    """The agents of a checkpoint: ``state`` maps the names of ``ExtractAgents.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    return loaded(ExtractAgents(settings, model_from_state(settings, state)), state)
