"""The two objectives of an actor-critic update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from goskill.data import ReplaySampler
from goskill.training import Objective, OptimizerSettings
from goskill.training.placement import sampled_objective
from goskill.training.targets import TargetNetwork


class WithCritics(Protocol):
    """Agents with critics that targets follow."""

    @property
    def critic(self) -> nn.Module: ...

    @property
    def target(self) -> TargetNetwork: ...


def actor_critic(
    transitions: ReplaySampler,
    agents: WithCritics,
    critic_loss: nn.Module,
    actor_loss: nn.Module,
    actors: Sequence[nn.Module],
    learning_rate: float,
) -> list[Objective]:
    """An update of all agents: critics and their targets, then ``actors`` (and temperatures), on the same batch.

    Each has an Adam of its own, with ``learning_rate``.
    """
    adam = OptimizerSettings(learning_rate, "adam")
    after = agents.target.update
    return [
        sampled_objective("critic", transitions, critic_loss, [agents.critic], optimizer=adam, after=after),
        Objective("actor", "critic", actor_loss, actors, optimizer=adam),
    ]
