"""The two objectives of an actor-critic update."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from goskill.data import ReplaySampler
from goskill.training import Objective, OptimizerSettings
from goskill.training.placement import sampled_objective
from goskill.training.targets import TargetNetwork


def actor_critic(
    transitions: ReplaySampler,
    critic_loss: nn.Module,
    critic: nn.Module,
    target: TargetNetwork,
    actor_loss: nn.Module,
    actors: Sequence[nn.Module],
    learning_rate: float,
) -> list[Objective]:
    """An update of all agents: critics and their ``target``, then actors (and temperatures), on the same batch.

    Each has an Adam of its own, with ``learning_rate``.
    """
    adam = OptimizerSettings(learning_rate, "adam")
    return [
        sampled_objective("critic", transitions, critic_loss, [critic], optimizer=adam, after=target.update),
        Objective("actor", "critic", actor_loss, actors, optimizer=adam),
    ]
