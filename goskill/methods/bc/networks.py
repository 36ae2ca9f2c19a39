"""The networks of behaviour cloning: normalisation and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.errors import CheckpointError, InputError
from goskill.methods.bc.settings import BCSettings
from goskill.methods.sequence.checking import load_parts
from goskill.models import Normalize


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
        self.normalize = normalize
        sizes = [self.observation_dim + len(settings.tasks), *[settings.width] * settings.layers]
        hidden = [part for here, there in pairwise(sizes) for part in (nn.Linear(here, there), nn.ReLU())]
        self.policy = nn.Sequential(*hidden, nn.Linear(settings.width, action_dim), nn.Tanh())

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {"normalize": self.normalize, "policy": self.policy}

    def forward(self, observations: Tensor, task: Tensor | None) -> Tensor:
        """Raw observations [B, observation_dim] and places int64 [B] of ``task_index`` -> actions [B, action_dim]."""
        inputs = self.normalize(observations)
        if task is not None:
            told = F.one_hot(task, len(self.settings.tasks)).to(inputs.dtype)
            inputs = torch.cat([inputs, told], dim=-1)
        actions: Tensor = self.policy(inputs)
        return actions

    def task_index(self, tasks: Sequence[str]) -> Tensor | None:
        """Where each task's bit is: int64 [len(tasks)]; None if the network is not told the task.

        Raises InputError for a task that it does not know.
        """
        if not self.settings.task_identity:
            return None
        place = {name: index for index, name in enumerate(self.settings.tasks)}
        for task in tasks:
            if task not in place:
                raise InputError(
                    f"tasks: this network was told {len(place)} tasks apart, and {task!r} is none of them: "
                    "fine-tune it on it"
                )
        return torch.tensor([place[task] for task in tasks], device=self.normalize.mean.device)

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
    try:
        mean, std = state["normalize"]["mean"], state["normalize"]["std"]
        action_dim = len(state["policy"][f"{2 * settings.layers}.bias"])
    except KeyError as error:
        raise CheckpointError(f"checkpoint: {error.args[0]!r} is missing") from None
    networks = BCNetworks(settings, Normalize(mean, std), action_dim)
    load_parts(networks.parts, state)
    return networks
