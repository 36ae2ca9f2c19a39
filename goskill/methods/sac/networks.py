"""Actors, twin critics and temperatures of several agents, each as one batched network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.feedforward import agents_in
from goskill.methods.sac.settings import SACSettings
from goskill.methods.sequence.checking import loaded, naming_the_missing
from goskill.models import EnsembleMLP, SquashedNormal, twin_values
from goskill.models.temperature import Temperature
from goskill.training.targets import TargetNetwork


class SACNetworks(nn.Module):
    """Agents for ``settings.tasks``: batches are [agents, B, ...], observations raw."""

    def __init__(self, settings: SACSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        if not settings.tasks:
            raise InputError("tasks: expected at least one, got none")
        self.settings = settings
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.agents = len(settings.tasks)
        hidden = [settings.width] * settings.layers
        self.actor = EnsembleMLP(self.agents, [observation_dim, *hidden, 2 * action_dim])
        # The two critics of an agent follow one another.
        self.critic = EnsembleMLP(2 * self.agents, [observation_dim + action_dim, *hidden, 1])
        self.temperature = Temperature(self.agents, settings.initial_temperature)
        self.target = TargetNetwork(self.critic, settings.target_rate)
        self.target_critic = self.target.module

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {
            "actor": self.actor,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "temperature": self.temperature,
        }

    def distribution(self, observations: Tensor) -> SquashedNormal:
        """Of the actions for observations [agents, B, observation_dim]."""
        return SquashedNormal.from_output(self.actor(observations).float())

    def values(self, observations: Tensor, actions: Tensor, critic: nn.Module | None = None) -> Tensor:
        """Both critics' values [agents, 2, B] of observations and actions [agents, B, ...]."""
        inputs = torch.cat([observations, actions], -1)
        return twin_values(self.critic if critic is None else critic, inputs)[..., 0]

    def agent_of(self, tasks: Sequence[str]) -> Tensor:
        """Which agent acts in each task, int64 [len(tasks)]. Raises InputError for a task that none has learned."""
        return agents_in(tasks, self.settings.tasks, self.temperature.log_value.device)


def networks_from_state(settings: SACSettings, state: Mapping[str, Mapping[str, Tensor]]) -> SACNetworks:
    """The networks of a checkpoint: ``state`` maps the names of ``SACNetworks.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    with naming_the_missing():
        first = state["actor"]["layers.0.weight"]
        last = state["actor"][f"layers.{settings.layers}.weight"]
    return loaded(SACNetworks(settings, first.shape[1], last.shape[2] // 2), state)
