"""Demonstrations: those that a run learns from and keeps, and those of other stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goskill.errors import InputError

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.methods import Method
    from goskill.rollouts import Prompts
    from goskill.training import RunFolder


def chosen_prompts(method: Method, store: EpisodeStore | None) -> dict[str, list[int]]:
    """The episodes of a store that are a method's prompts, by task. Raises InputError for a rule that does not fit."""
    from goskill.data.selection import select_episodes

    if store is None or not method.prompt_episodes:
        return {}
    chosen = select_episodes(store, method.prompts, method.prompt_episodes)
    for task in tasks_with_episodes(store):
        if task not in chosen:
            raise InputError(f"prompts: expected episodes of each task, got none of {task!r}")
    return chosen


def tasks_with_episodes(store: EpisodeStore) -> list[str]:
    """The tasks of a store that have episodes."""
    return [store.tasks[index] for index in np.unique(store.episode_task)]


def keep_prompts(store: EpisodeStore, run: RunFolder, chosen: Mapping[str, Sequence[int]], rule: str) -> None:
    """Copy each task's prompts into a run, so that it can be evaluated without its data."""
    from goskill.data.selection import is_indices
    from goskill.rollouts.collection import suite_of_store

    if run.prompts.exists():
        return
    unfinished = run.path / ".prompts"
    shutil.rmtree(unfinished, ignore_errors=True)
    count = max(map(len, chosen.values()), default=0)
    by = "return" if rule == "best" else "index" if is_indices(rule) else rule
    origin: dict[str, Any] = {
        "source": str(store.path),
        "selection": f"{count} episodes of each task by {by}",
    }
    name = suite_of_store(store)
    if name is not None:
        origin["suite"] = name
    if store.action_repeat != 1:
        origin["action_repeat"] = store.action_repeat
    copy_episodes(store, unfinished, [index for indices in chosen.values() for index in indices], origin)
    os.replace(unfinished, run.prompts)


def copy_episodes(
    store: EpisodeStore, path: Path, indices: Iterable[int], provenance: Mapping[str, Any] | None
) -> None:
    """Write episodes of a store into a new one, without the columns that it declares."""
    from goskill.data import StoreWriter

    sizes = (store.observation_dim, store.action_dim)
    with StoreWriter(path, *sizes, store.tasks, provenance=provenance) as writer:
        for index in indices:
            one = store.episode(index)
            writer.append(
                task=one.task,
                observations=one.observations,
                actions=one.actions,
                rewards=one.rewards,
                success=one.success,
            )


def prompts_of(store: EpisodeStore, count: int, rule: str = "best") -> Prompts:
    """Up to ``count`` of each task's episodes by a rule as demonstrations; tasks without episodes are left out."""
    from goskill.data.selection import read_rule, select_episodes
    from goskill.rollouts import Demonstration

    if count == 0 or store.num_episodes == 0:
        return {}
    prompts = {}
    for task, indices in select_episodes(store, read_rule(rule), count).items():
        chosen = [store.episode(index) for index in indices]
        prompts[task] = [Demonstration(one.observations, one.actions, one.rewards) for one in chosen]
    return prompts


def rule_elsewhere(method: Method) -> str:
    """How a method's prompts are chosen in another store than it learned from, where indices mean nothing."""
    from goskill.data.selection import is_indices

    return "best" if is_indices(method.prompts) else method.prompts
