"""Choosing episodes: the prompts of each task, and the best share of all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.arguments import checked_indices, checked_integer, checked_store, is_real
from goskill.data.store import EpisodeStore
from goskill.errors import InputError, closest
from goskill.files import parse_json, read_bytes

RULES = ("best", "successful", "shortest")
Rule = str | Sequence[int] | Mapping[str, Sequence[int]]


def select_episodes(
    store: EpisodeStore, rule: Rule, count: int, episodes: npt.ArrayLike | None = None
) -> dict[str, list[int]]:
    """Up to ``count`` episodes of each task, by its name: what ``ContextSampler(prompt_episodes=...)`` takes.

    rule: "best" (highest return first), "successful" (those that succeeded at some step, highest return first),
        "shortest" (fewest steps first, then highest return), the name of a declared column of the episodes (of bools:
        those that are true, highest return first; of numbers: largest first), or indices of episodes, which are kept
        in their order, of all tasks together or by task name, also as JSON (:func:`read_rule`).
    episodes: indices to choose among; all by default. Equal episodes are ordered by index.

    Raises InputError for a rule that the store cannot follow, and names the task for which it finds no episode.
    """
    checked_store(store)
    checked_integer("count", count, 1)
    among = np.arange(store.num_episodes)
    if episodes is not None:
        among = np.unique(np.array(checked_indices("episodes", episodes, store), dtype=np.int64))
    if isinstance(rule, str) and is_indices(rule):
        rule = parse_json(rule)
    if isinstance(rule, str):
        ordered = among[_order(store, rule)[among].argsort(kind="stable")]
        ordered = ordered[_eligible(store, rule)[ordered]]
    else:
        ordered = _given(store, rule)
        among = np.intersect1d(among, ordered) if episodes is not None else ordered
        ordered = ordered[np.isin(ordered, among)]
    chosen = {}
    for task in np.unique(store.episode_task[among]):
        name = store.tasks[task]
        chosen[name] = [int(i) for i in ordered[store.episode_task[ordered] == task][:count]]
        if not chosen[name]:
            raise InputError(f"prompts: no episode of task {name!r} is {rule!r:.80}")
    return chosen


def is_indices(rule: str) -> bool:
    """Whether a rule holds indices, which mean something in one store only."""
    return rule[:1] in ("[", "{")


def episode_counts(store: EpisodeStore) -> list[int]:
    """How many episodes a store has of each of its tasks."""
    counts: list[int] = np.bincount(store.episode_task, minlength=len(store.tasks)).tolist()
    return counts


def best_share(store: EpisodeStore, share: float) -> list[int] | None:
    """The best ``share`` in (0, 1] of each task's episodes by return, as indices in ascending order; None for all.

    Rounded up, so that every task with episodes keeps at least one. Behaviour cloning of the best tenth, for example,
    is a sampler with ``episodes=best_share(store, 0.1)``. Raises InputError for a share outside.
    """
    check_share("share", share)
    if share == 1:
        return None
    chosen = [
        store.best_episodes(task, math.ceil(share * count))
        for task, count in zip(store.tasks, episode_counts(store), strict=True)
    ]
    return sorted(index for indices in chosen for index in indices)


def check_share(name: str, share: float) -> None:
    """Raises InputError for a share of episodes outside of (0, 1]."""
    if not is_real(share) or not 0 < share <= 1:
        raise InputError(f"{name}: expected a number above 0 and at most 1, got {share!r:.80}")


def read_rule(text: str) -> str:
    """A rule as a setting has it: the name of a ``.json`` file with indices becomes what the file holds.

    So a run that is resumed elsewhere, or after the file has changed, keeps its prompts. Raises InputError for a file
    that holds anything but indices, or lists of them by task.
    """
    if not text.endswith(".json"):
        return text
    try:
        found = parse_json(read_bytes(text))
    except OSError as error:
        raise InputError(f"prompts: {text}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"prompts: {text}: expected JSON: {error}") from None
    lists = list(found.values()) if isinstance(found, dict) else [found]
    if not all(isinstance(one, list) and all(type(index) is int for index in one) for one in lists):
        raise InputError(f"prompts: {text}: expected indices of episodes, or lists of them by task")
    return json.dumps(found)


def _order(store: EpisodeStore, rule: str) -> npt.NDArray[np.int64]:
    """The place of every episode, the best first; equal ones by index."""
    returns = -store.episode_return
    if rule == "shortest":
        order = np.lexsort((returns, store.episode_length))
    elif rule in RULES or _column(store, rule).dtype.kind == "b":
        order = np.argsort(returns, kind="stable")
    else:
        values = _column(store, rule)
        # From the largest to the smallest without a change of sign, which unsigned integers do not bear.
        order = np.lexsort((np.arange(len(values)), -np.unique(values, return_inverse=True)[1]))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def _eligible(store: EpisodeStore, rule: str) -> npt.NDArray[np.bool_]:
    if rule == "successful":
        return _succeeded(store)
    if rule not in RULES and _column(store, rule).dtype.kind == "b":
        return _column(store, rule)
    return np.ones(store.num_episodes, dtype=bool)


def _succeeded(store: EpisodeStore) -> npt.NDArray[np.bool_]:
    """Whether each episode succeeded at some step. InputError if one of them does not say."""
    first = 0
    best = []
    for shard in range(len(store.shard_folders)):
        success = store.native.shard_rows("success", shard)
        starts = store.episode_start[first:] - store.episode_start[first]
        starts = starts[starts < len(success)]
        best.append(np.maximum.reduceat(success, starts))
        first += len(starts)
    found = np.concatenate(best)
    if (found < 0).any():
        index = int(np.argmin(found))
        raise InputError(f"prompts: {store.path} does not say whether all episodes succeeded, as {index}")
    return found > 0


def _column(store: EpisodeStore, rule: str) -> npt.NDArray[Any]:
    if rule not in store.episode_columns:
        known = closest(rule, [*RULES, *store.episode_columns])
        raise InputError(
            "prompts: expected a rule, a column of the episodes, indices or a .json file of them, "
            f"got {rule!r:.80}; {known}"
        )
    values = store.episode_column(rule)
    if values.dtype.kind not in "biuf" or values.ndim != 1:
        raise InputError(f"prompts: expected a column of bools or numbers, got {rule!r} of {values.dtype}")
    return values


def _given(store: EpisodeStore, rule: Sequence[int] | Mapping[str, Sequence[int]]) -> npt.NDArray[np.int64]:
    if not isinstance(rule, Mapping):
        return np.array(checked_indices("prompts", rule, store), dtype=np.int64)
    indices = []
    for task, given in rule.items():
        found = checked_indices(f"prompts[{task!r}]", given, store)
        other = next((i for i in found if store.episode_task[i] != store.task_index(task)), None)
        if other is not None:
            raise InputError(f"prompts[{task!r}]: expected episodes of that task, got {other}")
        indices += found
    return np.array(indices, dtype=np.int64)
