"""What samplers share that draw single steps of a store: how the steps are balanced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.buffers import ArraySpec
from goskill.data.sampler import MOST_STEPS, StoreSampler, checked_indices, checked_integer, checked_store
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

BALANCES = ("transition", "task", "episode", "skill")


class StepSampler(StoreSampler):
    """Draws steps, balanced by transition, task, episode or skill; subclasses say what is read around a step."""

    def __init__(
        self,
        store: EpisodeStore,
        batch_size: int | None,
        *,
        balance: str,
        labels: str | None,
        task_weights: Mapping[str, float] | None,
        episode_weights: npt.ArrayLike | None,
        samples_per_task: int | None,
        **common: Any,
    ) -> None:
        checked_store(store)
        if balance not in BALANCES:
            raise InputError(f"balance: expected one of {', '.join(BALANCES)}, got {balance!r:.80}")
        if balance == "skill" and labels is None:
            raise InputError("labels: balance 'skill' needs the name of a label column, got None")
        for name, value, needed in (
            ("task_weights", task_weights, "task"),
            ("samples_per_task", samples_per_task, "task"),
            ("episode_weights", episode_weights, "episode"),
        ):
            if value is not None and balance != needed:
                raise InputError(f"{name}: expected balance {needed!r} with it, got {balance!r}")
        self._balance = balance
        self._episode_weights = _checked_weights(store, episode_weights)
        self._samples_per_task = 1
        if samples_per_task is not None:
            if batch_size is not None or task_weights is not None:
                raise InputError("samples_per_task: expected no batch_size and no task_weights beside it")
            self._samples_per_task = checked_integer("samples_per_task", samples_per_task, 1, MOST_STEPS)
            batch_size = self._samples_per_task * _tasks_with_episodes(store, common.get("episodes"))
        if batch_size is None:
            raise InputError("batch_size: expected it, or samples_per_task, got neither")
        super().__init__(store, batch_size, labels=labels, task_weights=task_weights, **common)

    def _shared(self) -> dict[str, Any]:
        return {
            **super()._shared(),
            "balance": self._balance,
            "episode_weights": self._episode_weights,
            "samples_per_task": self._samples_per_task,
        }

    def _place_specs(self) -> list[ArraySpec]:
        return [ArraySpec(name, np.int64, (self._batch_size,)) for name in ("start", "episode", "task")]


def _tasks_with_episodes(store: EpisodeStore, episodes: npt.ArrayLike | None) -> int:
    chosen = store.episode_task
    if episodes is not None:
        chosen = chosen[checked_indices("episodes", episodes, store)]
    return max(len(np.unique(chosen)), 1)  # episodes that are none are refused by the native sampler


def _checked_weights(store: EpisodeStore, weights: npt.ArrayLike | None) -> list[float]:
    if weights is None:
        return []
    array: npt.NDArray[Any] = np.asarray(weights)
    if array.dtype.kind not in "biuf" or array.shape != (store.num_episodes,):
        raise InputError(
            f"episode_weights: expected one for each of {store.num_episodes} episodes, "
            f"got dtype {array.dtype} and shape {list(array.shape)}"
        )
    values = array.astype(np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"episode_weights: expected finite weights of at least 0, got {array[place]} of episode {place}"
        )
    return [float(weight) for weight in values]
