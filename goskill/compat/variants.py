"""Batches in the manner of Prompt-DT and HarmoDT, whose settings are a dict ``variant``.

Windows start at any step of a trajectory and are padded in front where it ends too soon: states 0 (before they are
normalised), actions -10, terminals 2, everything else 0. Returns-to-go have one row more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
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
from goskill.errors import InputError

_SETTINGS = ("batch_size", "K", "prompt_episode", "prompt_length", "stochastic_prompt", "no_state_normalize")
_COLUMNS = ("observations", "actions", "rewards", "terminals", "returns_to_go")
_PADDED_ACTION, _PADDED_TERMINAL = -10.0, 2.0


class Windows(NamedTuple):
    """[B, K, …] in the order of those codes; ``returns_to_go`` [B, K + 1, 1], ``mask`` float64 as there."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminals: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    mask: Tensor

    def flattened(self, batch_size: int) -> Windows:
        """Several demonstrations per sample one behind the other, without the further row of returns-to-go."""
        parts = self._replace(returns_to_go=self.returns_to_go[:, :-1])
        rows = (part.reshape(batch_size, -1, *part.shape[2:]) for part in parts)
        return Windows(*rows)


class VariantTrajectories(TaskTrajectories):
    """All trajectories of all tasks, with the settings ``variant``."""

    def __init__(
        self,
        trajectories: Trajectories,
        info: Mapping[str, Any],
        variant: Mapping[str, Any],
        tasks: Sequence[str],
    ) -> None:
        for name in _SETTINGS:
            if name not in variant:
                raise InputError(
                    f"variant: expected the setting {name!r}, got {', '.join(map(str, variant))}"
                )
        super().__init__(trajectories, info, tasks, _COLUMNS, _column)
        self.variant = variant
        self._limit = np.array([task["max_ep_len"] for task in self.info])

    def windows(self, task: Int64Array, trajectory: Int64Array, start: Int64Array, length: int) -> Windows:
        """The steps from ``start`` [B] on, at most ``length``."""
        place, total = self.places(task, trajectory), self.lengths(task, trajectory)[:, None]
        missing = np.maximum(length - (total - start[:, None]), 0)
        steps = start[:, None] - missing + np.arange(length + 1)
        inside = np.arange(length + 1) >= missing
        real = inside[:, :-1]
        rows = np.where(inside & (steps < total), steps, -1)

        within = np.ascontiguousarray(rows[:, :-1])
        observations, actions = self.rows("observations", place, within), self.rows("actions", place, within)
        if not self.variant["no_state_normalize"]:
            self.normalize(observations, task)
        actions[~real] = _PADDED_ACTION
        terminals = self.rows("terminals", place, within)[..., 0]
        terminals[~real] = _PADDED_TERMINAL
        scale = np.array([self.info[t]["scale"] for t in task], dtype=np.float32)
        timesteps = np.where(real, np.minimum(steps[:, :-1], self._limit[task][:, None] - 1), 0)
        arrays = (
            observations,
            actions,
            self.rows("rewards", place, within),
            terminals.astype(np.int64),
            self.rows("returns_to_go", place, rows) / scale[:, None, None],
            timesteps,
            real.astype(np.float64),
        )
        return Windows(*(torch.from_numpy(array).to(self.info[0]["device"]) for array in arrays))


def _column(trajectory: Trajectory, name: str) -> Float32Array:
    if name == "returns_to_go":
        # Summed in the rewards' own type, as there.
        values = np.asarray(trajectory["rewards"]).reshape(-1)[::-1].cumsum()[::-1]
    else:
        values = np.asarray(trajectory[terminals_name(trajectory) if name == "terminals" else name])
    return np.ascontiguousarray(values.reshape(len(trajectory["rewards"]), -1), dtype=np.float32)


def _prompt(prompts: VariantTrajectories, tasks: Sequence[int], batch_size: int) -> Windows:
    """The steps before the last one of demonstrations."""
    episodes, length = int(prompts.variant["prompt_episode"]), int(prompts.variant["prompt_length"])
    size = episodes * batch_size
    chosen = []
    for index in tasks:
        if prompts.variant["stochastic_prompt"]:
            chosen.append(np.random.choice(prompts.counts[index], size=size, replace=True))
            continue
        order = np.asarray(prompts.info[index]["sorted_inds"])
        # Counted from the end as there, beginning with element -0: the first.
        places = np.arange(size)
        chosen.append(order[-np.where(places > len(order), 1, places)])
    task, trajectory = np.repeat(tasks, size), np.concatenate(chosen)
    start = np.maximum(prompts.lengths(task, trajectory) - length - 1, 0)
    return prompts.windows(task, trajectory, start, length).flattened(batch_size * len(tasks))


def _batch(trajectories: VariantTrajectories, tasks: Sequence[int], batch_size: int) -> Windows:
    chosen = []
    for index in tasks:
        info = trajectories.info[index]
        drawn = np.random.choice(info["num_trajectories"], size=batch_size, replace=True, p=info["p_sample"])
        chosen.append(np.asarray(info["sorted_inds"])[drawn])
    task, trajectory = np.repeat(tasks, batch_size), np.concatenate(chosen)
    start = np.random.randint(0, trajectories.lengths(task, trajectory))
    batch = trajectories.windows(task, trajectory, start, int(trajectories.variant["K"]))
    if trajectories.variant.get("no_r"):
        batch.rewards.zero_()
    if trajectories.variant.get("no_rtg"):
        batch.returns_to_go.zero_()
    return batch


def prompt_dt_batches(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    variant: Mapping[str, Any],
    tasks: Sequence[str],
) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Prompt-DT's: a function of ``batch_size`` that draws prompts and windows of all tasks."""
    trajectories = VariantTrajectories(trajectories_list, info, variant, tasks)
    prompts = trajectories
    if prompt_trajectories_list:
        prompts = VariantTrajectories(prompt_trajectories_list, info, variant, tasks)
    every = range(len(tasks))

    def draw(
        batch_size: int = variant["batch_size"],
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return tuple(_prompt(prompts, every, batch_size)), tuple(_batch(trajectories, every, batch_size))

    return draw


def harmodt_batches(
    trajectories_list: Trajectories,
    prompt_trajectories_list: Trajectories | None,
    info: Mapping[str, Any],
    prompt_info: Mapping[str, Any],
    variant: Mapping[str, Any],
    tasks: Sequence[str],
) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Any, ...]]]:
    """HarmoDT's: a function of ``batch_size`` and a task's name, which stands behind the batch it gives."""
    trajectories = VariantTrajectories(trajectories_list, info, variant, tasks)
    prompts = trajectories
    if prompt_trajectories_list:
        prompts = VariantTrajectories(prompt_trajectories_list, prompt_info, variant, tasks)

    def draw(
        batch_size: int = variant["batch_size"], index: str | None = None
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        if index is None or index not in tasks:
            raise InputError(f"index: expected the name of a task, got {index!r}")
        task = [list(tasks).index(index)]
        prompt = _prompt(prompts, task, batch_size)
        prompt = prompt._replace(terminals=prompt.terminals.float(), timesteps=prompt.timesteps.float())
        return tuple(prompt), (*_batch(trajectories, task, batch_size), index)

    return draw
