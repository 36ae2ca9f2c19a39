"""Actor, twin critics and their targets, told the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.feedforward import TaskInput
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.methods.td3_bc.settings import TD3BCSettings
from goskill.models import EnsembleMLP, Normalize
from goskill.models.soft_modules import SoftModules
from goskill.training.targets import TargetNetwork

CRITICS = 2


class Routed(nn.Module):
    """Perceptrons or soft modules behind one call: inputs whose last entries are the one-hot task."""

    def __init__(self, settings: TD3BCSettings, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.tasks = len(settings.tasks)
        self.body: nn.Module
        if settings.network == "mlp":
            self.body = EnsembleMLP(members, [inputs, *[settings.width] * settings.layers, outputs])
        else:
            self.body = SoftModules(
                members, inputs, self.tasks, settings.width, settings.layers, settings.modules, outputs
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [members, B, outputs]."""
        outputs: Tensor = (
            self.body(x) if isinstance(self.body, EnsembleMLP) else self.body(x, x[:, -self.tasks :])
        )
        return outputs


class TD3BCNetworks(nn.Module):
    """Actor and critics on normalised observations. Observations go in raw, in the store's units.

    Raises InputError for settings that tell tasks apart and name none.
    """

    def __init__(self, settings: TD3BCSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        if settings.task_identity and not settings.tasks:
            raise InputError("tasks: expected at least one with task_identity, got none")
        self.settings = settings
        self.observation_dim = normalize.mean.numel()
        self.action_dim = action_dim
        self.inputs = TaskInput(normalize, settings.tasks)
        self.actor = Routed(settings, 1, self.inputs.size, action_dim)
        self.critic = Routed(settings, CRITICS, self.inputs.size + action_dim, 1)
        self.targets = {
            name: TargetNetwork(module, settings.target_rate)
            for name, module in (("actor", self.actor), ("critic", self.critic))
        }
        self.target_actor = self.targets["actor"].module
        self.target_critic = self.targets["critic"].module

    @property
    def normalize(self) -> Normalize:
        """The normalisation of observations."""
        return self.inputs.normalize

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {
            "normalize": self.normalize,
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
        }

    def forward(self, observations: Tensor, task: Tensor | None) -> Tensor:
        """The actor's actions [B, action_dim] for raw observations and the places of tasks."""
        return self.act(self.inputs(observations, task))

    def act(self, states: Tensor, actor: nn.Module | None = None) -> Tensor:
        """Actions [B, action_dim] in [-1, 1] for states [B, S] as ``inputs`` makes them."""
        return torch.tanh((self.actor if actor is None else actor)(states)[0])

    def first_value(self, states: Tensor, actions: Tensor) -> Tensor:
        """The first critic's values [B], through which the actor learns."""
        if isinstance(self.critic.body, EnsembleMLP):
            return self.values(states[None], actions[None])[0]
        return self.values(states, actions)[0]

    def values(self, states: Tensor, actions: Tensor, critic: nn.Module | None = None) -> Tensor:
        """Both critics' values [2, B]."""
        # The task stays last.
        split = self.observation_dim
        together = torch.cat([states[..., :split], actions, states[..., split:]], dim=-1)
        values: Tensor = (self.critic if critic is None else critic)(together)[..., 0]
        return values

    def task_index(self, tasks: Sequence[str]) -> Tensor | None:
        """See :meth:`goskill.methods.feedforward.TaskInput.task_index`."""
        return self.inputs.task_index(tasks)

    def update_targets(self) -> None:
        """Move both targets towards their networks."""
        for target in self.targets.values():
            target.update()


def networks_from_state(settings: TD3BCSettings, state: Mapping[str, Mapping[str, Tensor]]) -> TD3BCNetworks:
    """The networks of a checkpoint: ``state`` maps the names of ``TD3BCNetworks.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    last = "body.head.bias" if settings.network == "soft_modules" else f"body.layers.{settings.layers}.bias"
    with naming_the_missing():
        normalize = normalize_in(state)
        action_dim = state["actor"][last].shape[-1]
    return loaded(TD3BCNetworks(settings, normalize, action_dim), state)
