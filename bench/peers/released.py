"""Batches as training code of the Prompt-DT family builds them: a window at a time, tasks one after the other.

Written anew from what the released GO-Skill code does for each window: an index array, a copy of its rows, their
normalisation, a write into the task's zeroed arrays; then tensors of every task's arrays, and their concatenation.
One thing is done as it should be: the goal of a window that the episode's end cuts is normalised, too.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goskill.data import EpisodeStore

Trajectory = Mapping[str, np.ndarray[Any, Any]]
_SOURCES = {"return_to_gos": "rtgs"}


class ReleasedBatches:
    """Draws windows of consecutive steps for every task of lists of trajectories.

    ``info[task]`` holds ``p_sample``, ``state_mean``, ``state_std`` and ``scale``. ``keys``: what a batch holds
    before its mask, of observations, next_observations, actions, return_to_gos and timesteps.
    """

    def __init__(
        self,
        trajectories: Sequence[Sequence[Trajectory]],
        info: Mapping[str, Mapping[str, Any]],
        tasks: Sequence[str],
        keys: Sequence[str],
    ) -> None:
        self._trajectories, self._info, self._tasks, self._keys = trajectories, info, tasks, keys

    @classmethod
    def of_store(cls, store: EpisodeStore, keys: Sequence[str]) -> ReleasedBatches:
        """Over a store's episodes, copied to lists."""
        normalization = store.normalization()
        lists: list[list[Trajectory]] = [[] for _ in store.tasks]
        for index, task in enumerate(store.episode_task):
            episode = store.episode(index)
            observations = np.array(episode.observations)
            columns = {"observations": observations[:-1], "next_observations": observations[1:].copy()}
            actions, rewards = np.array(episode.actions), np.array(episode.rewards)
            lists[task].append({**columns, "actions": actions, "rewards": rewards})
        info = {}
        for name, trajectories in zip(store.tasks, lists, strict=True):
            lengths = np.array([len(trajectory["rewards"]) for trajectory in trajectories])
            moments = {"state_mean": normalization.mean, "state_std": normalization.std}
            info[name] = {**moments, "p_sample": lengths / lengths.sum(), "scale": 1.0}
        return cls(lists, info, store.tasks, keys)

    def draw(self, batch_size: int, length: int, left: int = 0, right: int = 0) -> list[Tensor]:
        """``batch_size`` windows per task, which may begin ``left`` steps early and end ``right`` late."""
        places = []
        for trajectories, task in zip(self._trajectories, self._tasks, strict=True):
            chosen = np.random.choice(
                np.arange(len(trajectories)), size=batch_size, replace=True, p=self._info[task]["p_sample"]
            )
            starts = [random.randint(-left, len(trajectories[i]["rewards"]) + right - length) for i in chosen]
            places.append((chosen, starts))
        return self.windows(places, length)

    def ends(self, batch_size: int, length: int) -> list[Tensor]:
        """The ends of ``batch_size`` trajectories per task, as prompts are."""
        places = []
        for trajectories in self._trajectories:
            chosen = np.random.choice(np.arange(len(trajectories)), size=batch_size, replace=True)
            places.append((chosen, [len(trajectories[i]["rewards"]) - length for i in chosen]))
        return self.windows(places, length)

    def windows(self, places: Sequence[tuple[Sequence[int], Sequence[int]]], length: int) -> list[Tensor]:
        """The windows of every task's (trajectories, first steps), one behind the other; the last is their mask."""
        batches = [
            self.of_task(task, chosen, starts, length)
            for task, (chosen, starts) in zip(range(len(self._tasks)), places, strict=True)
        ]
        return [torch.cat(tensors, dim=0) for tensors in zip(*batches, strict=True)]

    def of_task(self, task: int, chosen: Sequence[int], starts: Sequence[int], length: int) -> list[Tensor]:
        """The windows of one task, and their mask."""
        trajectories, info = self._trajectories[task], self._info[self._tasks[task]]
        mean, std = info["state_mean"].reshape(1, -1), info["state_std"].reshape(1, -1)
        arrays = [self._zeros(key, trajectories[0], len(chosen), length) for key in self._keys]
        mask = np.zeros((len(chosen), length), dtype=np.float32)
        for row, (number, start) in enumerate(zip(chosen, starts, strict=True)):
            trajectory = trajectories[int(number)]
            steps = np.arange(max(int(start), 0), min(int(start) + length, len(trajectory["rewards"])))
            first = steps[0] - int(start)
            last = first + len(steps)
            for key, array in zip(self._keys, arrays, strict=True):
                if key == "timesteps":
                    array[row, first:last] = steps
                    continue
                values = trajectory[_SOURCES.get(key, key)][steps].reshape(len(steps), -1)
                if key in ("observations", "next_observations"):
                    values = (values - mean) / std
                elif key == "return_to_gos":
                    values = values / info["scale"]
                array[row, first:last] = values
                if key == "next_observations" and last < length:
                    array[row, length - 1] = values[-1]
            mask[row, first:last] = 1
        return [self._tensor(key, array) for key, array in zip(self._keys, arrays, strict=True)] + [
            torch.from_numpy(mask).to(device="cpu")
        ]

    def _zeros(self, key: str, trajectory: Trajectory, count: int, length: int) -> np.ndarray[Any, Any]:
        if key == "timesteps":
            return np.zeros((count, length), dtype=np.int32)
        values = trajectory[_SOURCES.get(key, key)]
        return np.zeros((count, length, int(np.prod(values.shape[1:]))), dtype=np.float32)

    def _tensor(self, key: str, array: np.ndarray[Any, Any]) -> Tensor:
        kind = torch.long if key == "timesteps" else torch.float32
        return torch.from_numpy(array).to(dtype=kind, device="cpu")
