"""Observations as networks without memory see them: normalised, with the task told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.models import Normalize


class TaskInput(nn.Module):
    """Raw observations -> normalised ones, behind which stands a one-hot vector of the task.

    ``tasks`` are those that are told apart; none: the task is not told.
    """

    def __init__(self, normalize: Normalize, tasks: Sequence[str]) -> None:
        super().__init__()
        self.normalize = normalize
        self.tasks = tuple(tasks)
        self.observation_dim = normalize.mean.numel()
        self.size = self.observation_dim + len(self.tasks)

    def forward(self, observations: Tensor, task: Tensor | None) -> Tensor:
        """[B, observation_dim] and places int64 [B] of :meth:`task_index` -> [B, size]."""
        inputs: Tensor = self.normalize(observations)
        if task is None:
            return inputs
        # Not F.one_hot, which looks at the values and does not work under vmap.
        told = task[:, None] == torch.arange(len(self.tasks), device=task.device)
        return torch.cat([inputs, told.to(inputs.dtype)], dim=-1)

    def task_index(self, tasks: Sequence[str]) -> Tensor | None:
        """Where each task's bit is: int64 [len(tasks)]; None if the task is not told.

        Raises InputError for a task that is none of those told apart.
        """
        if not self.tasks:
            return None
        places = [place_of(task, self.tasks) for task in tasks]
        return torch.tensor(places, device=self.normalize.mean.device)


def place_of(task: str, known: Sequence[str]) -> int:
    """The place of ``task`` among the tasks that a network was told apart. Raises InputError if it is none of them."""
    if task not in known:
        raise InputError(
            f"tasks: this network was told {len(known)} tasks apart, and {task!r} is none of them: fine-tune it on it"
        )
    return known.index(task)


def agents_in(tasks: Sequence[str], learned: Sequence[str], device: torch.device) -> Tensor:
    """Which agent acts in each task, int64 [len(tasks)], where each of ``learned`` has one.

    Raises InputError for a task that none has learned.
    """
    place = {name: index for index, name in enumerate(learned)}
    for task in tasks:
        if task not in place:
            raise InputError(f"tasks: no agent has learned {task!r}, only {', '.join(place)}")
    return torch.tensor([place[task] for task in tasks], device=device)
