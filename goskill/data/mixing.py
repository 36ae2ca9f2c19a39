"""Data of mixed quality: parts of what agents experienced while they learned, cut by declared rules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.arguments import checked_integer, checked_store
from goskill.data.selection import episode_counts
from goskill.data.store import EpisodeStore
from goskill.data.store_files import MANIFEST
from goskill.data.writer import StoreWriter
from goskill.errors import InputError, StoreError
from goskill.seeds import check_seed

QUALITIES = ("MR", "RP", "ME")
RULES: Mapping[str, str] = {
    "MR": "medium replay: from the first episode to the first success; to medium where nothing succeeds",
    "RP": "replay: all episodes",
    "ME": "medium to expert: from medium to the last episode",
}
"""What each quality is cut by. Medium is the first episode at which the mean return of the last ten is half-way between
the mean of the first ten and the highest such mean."""
_SMOOTHED = 10
"""Episodes over which returns are averaged, and the least that a part holds where a task has as many."""
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MixedPart:
    """What a mix takes of a task."""

    task: str
    quality: str
    episodes: Int64Array  # indices, in the order in which they were experienced
    experienced: int  # episodes of the task that there are


def assigned(tasks: Sequence[str], config: Sequence[int], seed: int = 0) -> dict[str, str]:
    """Which task gets data of which quality, in the order of ``tasks``; drawn by ``seed``.

    ``config``: how many tasks get medium replay, replay, and medium to expert. Raises InputError unless it adds up to
    the tasks.
    """
    counts = [checked_integer("config", count, 0) for count in config]
    if len(counts) != len(QUALITIES) or sum(counts) != len(tasks):
        raise InputError(
            f"config: expected {len(QUALITIES)} numbers that add up to the {len(tasks)} tasks, "
            f"got {','.join(map(str, counts))}"
        )
    order = np.random.default_rng(check_seed("seed", seed)).permutation(len(tasks))
    qualities = [name for name, count in zip(QUALITIES, counts, strict=True) for _ in range(count)]
    by_place = dict(zip(order.tolist(), qualities, strict=True))
    return {task: by_place[place] for place, task in enumerate(tasks)}


def cut(
    store: EpisodeStore, task: str, quality: str, limit: int | None = None, steps: int | None = None
) -> Int64Array:
    """The episodes of a task that are of a quality (``RULES``), at most ``limit``, evenly spaced among them.

    The store's order is that in which they were experienced. ``steps``: only so many of each episode count. Raises
    InputError for a task without episodes and an unknown quality.
    """
    checked_store(store)
    if quality not in QUALITIES:
        raise InputError(f"quality: expected one of {', '.join(QUALITIES)}, got {quality!r:.80}")
    own = np.flatnonzero(store.episode_task == store.task_index(task))
    if not len(own):
        raise InputError(f"tasks: {store.path} has no episode of {task!r}")
    least = min(_SMOOTHED, len(own))
    if quality == "MR":
        first = _first_success(store, own, steps)
        end = _medium(store, own, steps) if first is None else first
        own = own[: max(end + 1, least)]
    elif quality == "ME":
        own = own[min(_medium(store, own, steps), len(own) - least) :]
    if limit is not None and limit < len(own):
        places = np.linspace(0, len(own) - 1, checked_integer("limit", limit, 1)).round().astype(np.int64)
        own = own[places]
    return own


def mixed(
    store: EpisodeStore,
    config: Sequence[int],
    *,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    steps: int | None = None,
) -> list[MixedPart]:
    """What a mix of this configuration holds of each task. Raises InputError as :func:`assigned` and :func:`cut`."""
    limits = limits or {}
    counts = episode_counts(store)
    return [
        MixedPart(
            task,
            quality,
            cut(store, task, quality, limits.get(quality), steps),
            counts[store.task_index(task)],
        )
        for task, quality in assigned(store.tasks, config, seed).items()
    ]


def write_mix(
    store: EpisodeStore,
    out: str | os.PathLike[str],
    config: Sequence[int],
    *,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    steps: int | None = None,
) -> list[MixedPart]:
    """Write the mix of a configuration as a store, unless ``out`` is that already; an interrupted one is made anew.

    Declared columns stay, each episode's ``quality`` is added to them. Episodes that are cut to ``steps`` are truncated
    there. Raises InputError and StoreError.
    """
    if "quality" in store.episode_columns:
        raise InputError(f"data: {store.path} is a mix already, or has a column 'quality' of its own")
    if store.unfinished:
        raise InputError(f"data: {store.path} is unfinished: run the command again that was writing it")
    parts = mixed(store, config, seed=seed, limits=limits, steps=steps)
    provenance = _provenance(store, parts, config, seed, limits, steps)
    path = Path(out)
    if (path / MANIFEST).exists():
        there = EpisodeStore.open(path)
        if not there.unfinished and there.provenance == [provenance]:
            return parts
        if not there.unfinished:
            raise StoreError(f"{path}: there is an episode store already, and not this mix")
    with StoreWriter(
        path,
        store.observation_dim,
        store.action_dim,
        store.tasks,
        provenance=provenance,
        unfinished=True,
        columns=store.columns,
        episode_columns={**store.episode_columns, "quality": "U2"},
    ) as writer:
        for part in parts:
            for index in part.episodes.tolist():
                _append(writer, store, index, part, steps)
        writer.finish()
    return parts


def _append(writer: StoreWriter, store: EpisodeStore, index: int, part: MixedPart, steps: int | None) -> None:
    episode = store.episode(index)
    length = min(len(episode.rewards), steps or len(episode.rewards))
    columns: dict[str, npt.NDArray[Any]] = {name: rows[:length] for name, rows in episode.columns.items()}
    if "truncated" in columns and length < len(episode.rewards):
        columns["truncated"] = np.arange(length) == length - 1
    writer.append(
        task=part.task,
        observations=episode.observations[: length + 1],
        actions=episode.actions[:length],
        rewards=episode.rewards[:length],
        success=None if episode.success is None else episode.success[:length],
        columns=columns,
        episode_columns={**episode.episode_columns, "quality": part.quality},
    )


def _provenance(
    store: EpisodeStore,
    parts: Sequence[MixedPart],
    config: Sequence[int],
    seed: int,
    limits: Mapping[str, int] | None,
    steps: int | None,
) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for name in ("source", "suite", "reward_version", "action_repeat", "policy"):
        values = [origin.get(name) for origin in store.provenance]
        if values and values[0] is not None and values.count(values[0]) == len(values):
            shared[name] = values[0]
    return {
        **shared,
        "mix_of": store.fingerprint,
        "config": dict(zip(QUALITIES, map(int, config), strict=True)),
        "mix_seed": seed,
        "limits": dict(limits or {}),
        "steps": steps,
        "qualities": {part.task: part.quality for part in parts},
    }


def _first_success(store: EpisodeStore, own: Int64Array, steps: int | None) -> int | None:
    """The place in ``own`` of the first episode that succeeded at some step; None if none did, as far as is known."""
    for place, index in enumerate(own.tolist()):
        success = store.episode(index).success
        if success is not None and success[:steps].any():
            return place
    return None


def _medium(store: EpisodeStore, own: Int64Array, steps: int | None) -> int:
    """The place in ``own`` at which returns are half-way from what they were at first to the highest."""
    returns = np.array([store.episode(index).rewards[:steps].sum(dtype=np.float64) for index in own.tolist()])
    width = min(_SMOOTHED, len(returns))
    smooth = np.convolve(returns, np.full(width, 1 / width), "valid")
    reached = smooth >= (smooth[0] + smooth.max()) / 2
    return int(np.argmax(reached)) + width - 1
