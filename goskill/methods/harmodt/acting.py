"""How HarmoDT acts: each task's episodes by the transformer that its mask leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from goskill.methods.harmodt.networks import HarmoDTNetworks
from goskill.methods.prompt_dt.acting import PromptDTGroup, PromptDTPolicy
from goskill.methods.sequence.acting import ActingOptions, EpisodeGroup
from goskill.methods.sequence.acting_graphs import StepRunner
from goskill.rollouts.policy import Demonstration

if TYPE_CHECKING:
    from typing_extensions import Unpack


class HarmoDTPolicy(PromptDTPolicy):
    """Deterministic actions behind a demonstration's last steps. Arguments are those of ``PromptDTPolicy``.

    Weights are masked when episodes begin, into a copy for each task that is there; keys and values are cached.
    """

    def __init__(self, networks: HarmoDTNetworks, **options: Unpack[ActingOptions]) -> None:
        super().__init__(networks, **options)
        self.name = "HarmoDT"

    def new_group(self, count: int, steps: StepRunner) -> EpisodeGroup:
        return _TaskGroups(self.networks, steps)


class _TaskGroups:
    """Episodes of several tasks, each of which has a forward pass of its own."""

    returns_to_go: Tensor

    def __init__(self, networks: HarmoDTNetworks, steps: StepRunner) -> None:
        self.networks = networks
        self.step = 0
        self._steps = steps
        self._rows: dict[str, list[int]] = {}
        self._groups: dict[str, PromptDTGroup] = {}

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> None:
        """New episodes, as ``goskill.methods.sequence.acting.EpisodeGroup`` says."""
        rows: dict[str, list[int]] = {}
        for row, task in enumerate(tasks):
            rows.setdefault(task, []).append(row)
        if rows != self._rows:
            self._groups = {
                task: PromptDTGroup(self.networks.of_task(task), len(own), self._steps)
                for task, own in rows.items()
            }
        self.step, self._rows, self.returns_to_go = 0, rows, returns_to_go
        for task, own in rows.items():
            group = self._groups[task]
            self.networks.show(task, group.networks)  # masks and weights may have changed since
            group.begin([task] * len(own), [shown[row] for row in own], returns_to_go[own])

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""
        like = self.networks.normalize.mean
        actions = like.new_empty(len(observations), self.networks.action_dim)
        for task, rows in self._rows.items():
            group = self._groups[task]
            group.returns_to_go = self.returns_to_go[rows]
            actions[torch.tensor(rows, device=like.device)] = group.act(observations[rows]).to(like.dtype)
        self.step += 1
        return actions
