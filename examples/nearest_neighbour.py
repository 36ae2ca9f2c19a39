"""A method of one's own: imitate the nearest stored state of the same task.

goskill train --method nearest_neighbour:NearestNeighbour --data data/mt10 --out runs/nearest
goskill eval runs/nearest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goskill.methods import Method, Networks, Sources
from goskill.training import Phase, TrainingSettings


@dataclass(frozen=True)
class Settings:
    """What ``--set method.NAME=VALUE`` changes."""

    best_episodes: int = 10  # of each task, by return, that are imitated
    prompt_episodes: int = 1  # of each task that the run keeps
    tasks: tuple[str, ...] = ()  # those of the data


class Memory(nn.Module):
    """Stored states and actions, as buffers: what a checkpoint keeps."""

    def __init__(self, states: Tensor, actions: Tensor, task: Tensor, std: Tensor) -> None:
        super().__init__()
        for name, value in (("states", states), ("actions", actions), ("task", task), ("std", std)):
            self.register_buffer(name, value)


class NearestNeighbour(Method):
    """The action that was taken in the nearest state, in units of each dimension's standard deviation."""

    Settings = Settings
    schedule = ()

    def __init__(self, settings: Settings, memory: Memory) -> None:
        self.settings, self.memory = settings, memory

    @classmethod
    def create(cls, settings: Settings, sources: Sources, training: TrainingSettings) -> NearestNeighbour:
        store = sources.episodes()
        chosen = [(k, store.episode(i)) for k, task in enumerate(store.tasks)
                  for i in store.best_episodes(task, settings.best_episodes)]  # fmt: skip
        states = np.concatenate([episode.observations[:-1] for _, episode in chosen])
        actions = np.concatenate([episode.actions for _, episode in chosen])
        task = np.concatenate([np.full(len(episode.actions), k) for k, episode in chosen])
        std = torch.as_tensor(store.normalization().std)
        memory = Memory(torch.as_tensor(states) / std, torch.as_tensor(actions), torch.as_tensor(task), std)
        return cls(Settings(settings.best_episodes, settings.prompt_episodes, tuple(store.tasks)), memory)

    @classmethod
    def restore(cls, settings: Settings, networks: Networks) -> NearestNeighbour:
        return cls(settings, Memory(**networks["memory"]))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"memory": self.memory}

    def phases(self) -> Sequence[Phase]:
        return []  # there is nothing to train

    def policy(self, precision: str = "float32") -> Policy:
        return Policy(self.memory, self.settings.tasks)


class Policy:
    """Acts in any number of environments."""

    name = "nearest neighbour"

    def __init__(self, memory: Memory, tasks: Sequence[str]) -> None:
        self.memory, self.tasks = memory, list(tasks)
        self.now = torch.zeros(0)

    def reset(self, tasks: Sequence[str], prompts: Any, seed: Any = 0) -> None:
        self.now = torch.tensor([self.tasks.index(task) for task in tasks])

    def fork(self) -> Policy:
        return Policy(self.memory, self.tasks)

    def act(self, observations: np.ndarray) -> np.ndarray:
        distances = torch.cdist(torch.as_tensor(observations) / self.memory.std, self.memory.states)
        distances[self.now[:, None] != self.memory.task] = torch.inf
        return self.memory.actions[distances.argmin(1)].numpy().clip(-1, 1)
