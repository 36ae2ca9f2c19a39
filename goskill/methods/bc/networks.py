"""The networks of behaviour cloning: normalisation and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.bc.settings import BCSettings
from goskill.methods.feedforward import TaskInput
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.models import Normalize, mlp


class BCNetworks(nn.Module):
    """Actions in (-1, 1) from observations, which go in raw, and from the task if the settings say so.

    Raises InputError for settings that tell tasks apart and name none.
    """

    def __init__(self, settings: BCSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        if settings.task_identity and not settings.tasks:
            raise InputError("tasks: expected at least one with task_identity, got none")
        self.settings = settings
        self.observation_dim = normalize.mean.numel()
        self.action_dim = action_dim
        self.inputs = TaskInput(normalize, settings.tasks)
        sizes = [self.inputs.size, *[settings.width] * settings.layers, action_dim]
        self.policy = mlp(sizes, last=nn.Tanh)

    @property
    def normalize(self) -> Normalize:
        """The normalisation of observations."""
        return self.inputs.normalize

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {"normalize": self.normalize, "policy": self.policy}

    def forward(self, observations: Tensor, task: Tensor | None) -> Tensor:
        """Raw observations [B, observation_dim] and places int64 [B] of ``task_index`` -> actions [B, action_dim]."""
        actions: Tensor = self.policy(self.inputs(observations, task))
        return actions

    def task_index(self, tasks: Sequence[str]) -> Tensor | None:
        """See :meth:`TaskInput.task_index`."""
        return self.inputs.task_index(tasks)

    def with_tasks(self, tasks: Sequence[str]) -> BCNetworks:
        """Networks that know these tasks as well; until they are trained, a new task changes nothing."""
        added = [task for task in dict.fromkeys(tasks) if task not in self.settings.tasks]
        if not self.settings.task_identity or not added:
            return self
        settings = replace(self.settings, tasks=(*self.settings.tasks, *added))
        normalize = Normalize(self.normalize.mean.cpu(), self.normalize.std.cpu())
        networks = BCNetworks(settings, normalize, self.action_dim)
        state = self.policy.state_dict()
        state["0.weight"] = F.pad(state["0.weight"], (0, len(added)))
        networks.policy.load_state_dict(state)
        return networks


def networks_from_state(settings: BCSettings, state: Mapping[str, Mapping[str, Tensor]]) -> BCNetworks:
    """The networks of a checkpoint: ``state`` maps the names of ``BCNetworks.parts`` to state dicts.

    Sizes of observations and actions come from the tensors. Raises CheckpointError that names the network
    that is missing or unexpected, or the network's key that is missing, unexpected or misshapen.
    """
    with naming_the_missing():
        action_dim = len(state["policy"][f"{2 * settings.layers}.bias"])
        normalize = normalize_in(state)
    return loaded(BCNetworks(settings, normalize, action_dim), state)
