"""Batches for training code of the Prompt-DT family (Prompt-DT, HarmoDT, the released GO-Skill).

:func:`get_prompt_batch` and :func:`get_batch_for_skill` stand in for that code's functions of the same
names: the same arguments, the same order, shapes, dtypes and device of what they return, drawn from
``numpy.random``. Two lines of the training code change::

    from goskill.compat.prompt_dt import get_prompt_batch, get_batch_for_skill
    # was: from .utils.prompt_fns import get_prompt_batch, get_batch_for_skill

One difference: in windows of the GO-Skill kind that the end of the episode cuts, the last available next observation,
which stands in the last row, is normalised like the others. The original leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.compat.trajectories import (
    Float32Array,
    Int64Array,
    TaskTrajectories,
    Trajectories,
    Trajectory,
    terminals_name,
)
from goskill.compat.variants import harmodt_batches, prompt_dt_batches
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

_COLUMNS = {
    "observations": "observations",
    "next_observations": "next_observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminals": "terminals",
    "return_to_gos": "rtgs",
    "skills": "skills",
}
_KEYS = (*_COLUMNS, "timesteps", "task_index")


class _Windows(TaskTrajectories):
    """Windows of all tasks' trajectories, for ``keys`` and the mask."""

    def __init__(
        self,
        trajectories: Trajectories,
        info: Mapping[str, Any],
        tasks: Sequence[str],
        no_state_normalize: bool,
        keys: Sequence[str] | None,
        interval_length: int | None,
    ) -> None:
        self.keys = list(keys or ())
        for key in self.keys:
            if key not in _KEYS:
                raise InputError(f"keys: expected some of {', '.join(_KEYS)}, got {key!r}")
        columns = (key for key in self.keys if key in _COLUMNS)
        super().__init__(trajectories, info, tasks, columns, _column)
        self.interval = interval_length or 1
        self._normalized = not no_state_normalize

    def gather(
        self, task: Int64Array, trajectory: Int64Array, start: Int64Array, length: int
    ) -> list[Tensor]:
        """One window per task index, index among the task's trajectories, and first step. [B, length, …] by key."""
        place = self.places(task, trajectory)
        steps = start[:, None] + np.arange(length) * self.interval
        total = self.lengths(task, trajectory)[:, None]
        real = (steps >= 0) & (steps < total)
        rows = np.where(real, steps, -1)
        result = [self._tensor(key, task, place, rows, real, total) for key in self.keys]
        return [*result, self._to_device(real.astype(np.float32))]

    def _tensor(
        self,
        key: str,
        task: Int64Array,
        place: Int64Array,
        rows: Int64Array,
        real: npt.NDArray[np.bool_],
        total: Int64Array,
    ) -> Tensor:
        if key == "task_index":
            return self._to_device(np.array([self.info[t]["task_idx"] for t in task], dtype=np.int64))
        if key == "timesteps":
            return self._to_device(np.where(real, rows // self.interval, 0))
        if key == "next_observations":
            following = np.where(real, np.minimum(rows + self.interval - 1, total - 1), -1)
            # Padding on the right ends in the last next observation, so that every window has its goal.
            at_end = ~real[:, -1] & real.any(axis=1)
            following[at_end, -1] = following.max(axis=1)[at_end]
            real = real.copy()
            real[at_end, -1] = True
            rows = following
        values = self.rows(key, place, rows)
        if key in ("observations", "next_observations") and self._normalized:
            self.normalize(values, task)
            values[~real] = 0
        if key == "return_to_gos":
            values /= np.array([self.info[t]["scale"] for t in task], dtype=np.float32)[:, None, None]
        if key == "terminals":
            values[~real] = 2
        if key in ("terminals", "skills"):
            return self._to_device(values[..., 0].astype(np.int64))
        return self._to_device(values)

    def _to_device(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.info[0]["device"])

    def starts(
        self, task: Int64Array, trajectory: Int64Array, length: int, l_blank: int, r_blank: int, skip_len: int
    ) -> Int64Array:
        """Uniform first steps, with that many blank rows allowed on either side."""
        steps = self.lengths(task, trajectory)
        least = -l_blank * self.interval
        most = steps + (r_blank + 1) * self.interval - 1 - length * self.interval
        if (most < least).any():
            raise InputError(f"max_len: expected windows that fit, got {length} rows for {steps.min()} steps")
        return np.random.randint(least, most + 1) // skip_len * skip_len


def _column(trajectory: Trajectory, key: str) -> Float32Array:
    name = terminals_name(trajectory) if key == "terminals" else _COLUMNS[key]
    values = np.asarray(trajectory[name], dtype=np.float32)
    return np.ascontiguousarray(values.reshape(len(trajectory["rewards"]), -1))


def _last_windows(
    windows: _Windows, batch_size: int, episodes: int, length: int, stochastic: bool
) -> list[Tensor]:
    """The end of ``episodes`` demonstrations per sample, one after the other."""
    tasks, trajectories = [], []
    size = batch_size * episodes
    for index, count in enumerate(windows.counts):
        if stochastic:
            chosen = np.random.choice(count, size=size, replace=True)
        else:
            # Counted from the end as the original does, which begins with element -0: the first.
            chosen = np.asarray(windows.info[index]["sorted_inds"])[-np.arange(size)]
        tasks.append(np.full(size, index))
        trajectories.append(chosen)
    task, trajectory = np.concatenate(tasks), np.concatenate(trajectories)
    steps = windows.lengths(task, trajectory)
    points = np.clip(steps // windows.interval, 1, length)
    start = np.maximum(steps - points * windows.interval, 0) - (length - points) * windows.interval
    tensors = windows.gather(task, trajectory, start, length)
    total = batch_size * len(windows.counts)
    return [_joined(tensor, total, key) for tensor, key in zip(tensors, [*windows.keys, "mask"], strict=True)]


def _joined(tensor: Tensor, total: int, key: str) -> Tensor:
    if key == "task_index":
        return tensor.reshape(total, -1)[:, 0]
    return tensor.reshape(total, -1, tensor.shape[-1]) if tensor.ndim == 3 else tensor.reshape(total, -1)


@overload
def get_prompt_batch(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    train_task_name_list: Sequence[str],
    stochastic_prompt: bool | None,
    no_state_normalize: bool,
    keys: Sequence[str] | None = None,
    interval_length: int | None = None,
) -> Callable[..., tuple[list[Tensor] | None, list[Tensor]]]: ...


@overload
def get_prompt_batch(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    variant: Mapping[str, Any],
    train_env_name_list: Sequence[str],
) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]: ...


@overload
def get_prompt_batch(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    prompt_info: Mapping[str, Any],
    variant: Mapping[str, Any],
    train_env_name_list: Sequence[str],
) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Any, ...]]]: ...


def get_prompt_batch(*arguments: Any, **named: Any) -> Callable[..., Any]:
    """A function that draws ``batch_size`` windows and prompts per task, ordered by task.

    Called as the released GO-Skill, Prompt-DT or HarmoDT calls its own; the fourth argument tells which. The
    trajectories are dicts of arrays (``observations``, ``actions``, ``rewards``, and for GO-Skill ``rtgs`` …), kept
    where they are if they are float32. ``info[task]`` holds ``p_sample``, ``sorted_inds``, ``state_mean``,
    ``state_std``, ``scale``, ``device``, and for GO-Skill ``task_idx``, for the others ``num_trajectories`` and
    ``max_ep_len``.

    The function returns ``(prompt, batch)``. GO-Skill: lists of tensors in the order of ``keys``, then the mask.
    Prompt-DT and HarmoDT: tuples of observations, actions, rewards, terminals, returns-to-go (one row more in the
    batch), timesteps and mask; HarmoDT's is drawn for the task ``index`` and ends in its name.

    Raises InputError for unknown keys or tasks, settings that are missing, or windows that do not fit.
    """
    if "prompt_info" in named or (len(arguments) > 4 and isinstance(arguments[4], Mapping)):
        return harmodt_batches(*arguments, **_tasks_of(named))
    if "variant" in named or (len(arguments) > 3 and isinstance(arguments[3], Mapping)):
        return prompt_dt_batches(*arguments, **_tasks_of(named))
    return _released_batches(*arguments, **named)


def _tasks_of(named: dict[str, Any]) -> dict[str, Any]:
    return {"tasks" if name == "train_env_name_list" else name: value for name, value in named.items()}


def _released_batches(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    train_task_name_list: Sequence[str],
    stochastic_prompt: bool | None,
    no_state_normalize: bool,
    keys: Sequence[str] | None = None,
    interval_length: int | None = None,
) -> Callable[..., tuple[list[Tensor] | None, list[Tensor]]]:
    windows = _Windows(
        trajectories_list, info, train_task_name_list, no_state_normalize, keys, interval_length
    )
    prompts = windows
    if prompt_trajectories_list is not None and len(prompt_trajectories_list) > 0:
        prompts = _Windows(
            prompt_trajectories_list, info, train_task_name_list, no_state_normalize, keys, interval_length
        )

    def draw(
        batch_size: int,
        max_len: int,
        prompt_episode: int | None,
        prompt_length: int | None,
        no_prompt: bool = False,
        l_blank: int = 0,
        r_blank: int = 0,
        skip_len: int = 1,
        trajectory_ids: Sequence[int] | None = None,
    ) -> tuple[list[Tensor] | None, list[Tensor]]:
        prompt = None
        if not no_prompt:
            prompt = _last_windows(
                prompts, batch_size, prompt_episode or 1, prompt_length or 1, bool(stochastic_prompt)
            )
        task = np.repeat(np.arange(len(windows.counts)), batch_size)
        if trajectory_ids is not None:
            trajectory = np.tile(np.asarray(trajectory_ids), len(windows.counts))
        else:
            drawn = [
                np.random.choice(count, size=batch_size, replace=True, p=task_info["p_sample"])
                for count, task_info in zip(windows.counts, windows.info, strict=True)
            ]
            trajectory = np.concatenate(drawn)
        start = windows.starts(task, trajectory, max_len, l_blank, r_blank, skip_len)
        return prompt, windows.gather(task, trajectory, start, max_len)

    return draw


def get_batch_for_skill(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    train_task_name_list: Sequence[str],
    stochastic_prompt: bool | None,
    no_state_normalize: bool,
    keys: Sequence[str] | None = None,
    interval_length: int | None = None,
    skill_index_in_data: Mapping[int, Any] | None = None,
) -> Callable[..., tuple[None, list[Tensor]]]:
    """A function that draws as many windows of every skill that occurs, ordered by skill and then by task.

    ``skill_index_in_data[skill]`` is None or an integer array [n, 3] of (task, trajectory, first step).
    The other arguments are those of :func:`get_prompt_batch`; the prompt it returns is None.
    """
    if skill_index_in_data is None:
        raise InputError("skill_index_in_data: expected the samples of every skill, got None")
    windows = _Windows(
        trajectories_list, info, train_task_name_list, no_state_normalize, keys, interval_length
    )
    present = [
        np.asarray(skill_index_in_data[skill])
        for skill in range(len(skill_index_in_data))
        if skill_index_in_data[skill] is not None
    ]

    def draw(
        batch_size: int,
        max_len: int,
        prompt_episode: int | None = None,
        prompt_length: int | None = None,
        no_prompt: bool = True,
        l_blank: int = 0,
        r_blank: int = 0,
        skip_len: int = 1,
        trajectory_ids: Sequence[int] | None = None,
    ) -> tuple[None, list[Tensor]]:
        if not no_prompt:
            raise InputError("no_prompt: expected True, batches by skill have no prompt")
        size = batch_size * len(windows.counts) // len(present)
        drawn = []
        for samples in present:
            chosen = samples[np.random.choice(len(samples), size=size, replace=True)]
            drawn.append(chosen[np.argsort(chosen[:, 0], kind="stable")])
        task, trajectory, start = np.concatenate(drawn).T
        return None, windows.gather(task, trajectory, start, max_len)

    return draw


def from_store(
    store: EpisodeStore,
    device: str | torch.device = "cpu",
    labels: str | None = None,
    scale: float = 1000.0,
    prompts: int = 4,
) -> tuple[list[list[Trajectory]], list[list[Trajectory]], dict[str, dict[str, Any]], list[str]]:
    """What :func:`get_prompt_batch` takes, as views of a store: trajectories, prompts, ``info`` and task
    names.

    A task's trajectories are in the order of their returns, the highest last. ``prompts`` is the number of each task's
    episodes of highest return that serve as prompts. The states are normalised by the statistics of the whole store.
    """
    normalization = store.normalization()
    trajectories, best, info = [], [], {}
    column = None if labels is None else store.labels(labels)
    for index, task in enumerate(store.tasks):
        chosen = np.flatnonzero(store.episode_task == index)
        chosen = chosen[np.argsort(store.episode_return[chosen], kind="stable")]
        of_task = {int(i): _trajectory(store, int(i), column) for i in chosen}
        trajectories.append(list(of_task.values()))
        best.append([of_task[i] for i in store.best_episodes(task, prompts)])
        lengths = store.episode_length[chosen]
        info[task] = {
            "num_trajectories": len(chosen),
            "p_sample": lengths / max(lengths.sum(), 1),
            "sorted_inds": np.arange(len(chosen)),
            "max_ep_len": int(lengths.max(initial=0)),
            "state_dim": store.observation_dim,
            "act_dim": store.action_dim,
            "state_mean": normalization.mean,
            "state_std": normalization.std,
            "scale": scale,
            "device": device,
            "task_idx": index,
        }
    return trajectories, best, info, store.tasks


def _trajectory(store: EpisodeStore, index: int, labels: npt.NDArray[Any] | None) -> Trajectory:
    episode = store.episode(index)
    length = len(episode.rewards)
    trajectory = {
        "observations": episode.observations[:-1],
        "next_observations": episode.observations[1:],
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminals": np.zeros(length, np.float32),
        "rtgs": episode.returns_to_go,
    }
    if labels is not None:
        first = int(store.episode_start[index])
        trajectory["skills"] = labels[first : first + length]
    return trajectory
