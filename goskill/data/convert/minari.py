"""Minari datasets, both ways. Needs minari."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from goskill.data.convert.copying import Part, Source, copy_source
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, SourceEpisode
from goskill.data.store import EpisodeStore
from goskill.errors import InputError, StoreError

_EPISODES_PER_PART = 8


def _minari() -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise InputError("Minari datasets need the package minari: pip install 'minari[hdf5]'") from error
    return minari  # type: ignore[no-any-return]


@functools.lru_cache(1)
def _opened(folder: str) -> Any:
    return _minari().MinariDataset(folder)


def read_episodes(key: tuple[str, str, list[int]]) -> Content:
    """Some episodes of the dataset of a name in a folder. StoreError names the episode."""
    name, folder, indices = key
    return Content([_episode(name, episode) for episode in _opened(folder).iterate_episodes(indices)])


def _episode(name: str, episode: Any) -> SourceEpisode:
    where = f"{name}: episode {episode.id}"
    for kind in ("observations", "actions"):
        values = getattr(episode, kind)
        if not isinstance(values, np.ndarray) or values.ndim != 2:
            found = f"shape {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
            raise StoreError(f"{where}: expected flat {kind}, got {found}")
    infos = episode.infos if isinstance(episode.infos, dict) else {}
    success = np.asarray(infos["success"])[1:] if "success" in infos else None
    if success is not None and len(success) != len(episode.actions):
        success = None
    rewards = np.asarray(episode.rewards)
    return SourceEpisode.of(where, episode.observations, episode.actions, rewards, success)


def from_minari(
    dataset: str | Any,
    path: str | os.PathLike[str],
    task: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a Minari dataset (its id, if it is on this machine, or the object) of flat arrays into a store, going
    on where an earlier call was interrupted.

    ``task`` names the one task, by default as the dataset. An episode's last observation is kept. Success is read
    from the info ``success`` where it was recorded at every step. ``workers``: processes that read, 0 for all
    cores. ``progress`` is called with (parts done, parts): a part is a few episodes.

    Returns the report, also written to ``conversion.json``. Raises InputError without minari, StoreError that names
    the episode, or WorkerDied when a process is killed (calling again goes on).
    """
    minari = _minari()
    if isinstance(dataset, str):
        try:
            dataset = minari.load_dataset(dataset)
        except (FileNotFoundError, ValueError, OSError) as error:
            raise StoreError(f"Minari dataset {dataset!r}: {error}") from error
    name, folder = str(dataset.spec.dataset_id), str(dataset.storage.data_path)
    indices = [int(index) for index in dataset.episode_indices]
    if not indices:
        raise StoreError(f"{name}: holds no episodes")
    parts = [
        Part(task or name, (name, folder, indices[i : i + _EPISODES_PER_PART]))
        for i in range(0, len(indices), _EPISODES_PER_PART)
    ]
    _, report = copy_source(
        Source(name, "minari", {"source": name}, parts, read_episodes), path, workers, progress
    )
    report.write(Path(path))
    return report


def to_minari(store: EpisodeStore, dataset_id: str, task: str, **metadata: Any) -> Any:
    """Make a Minari dataset of one task's episodes, as Minari keeps its datasets on this machine, and
    return it.

    Every episode ends by truncation: the store does not tell ends from time limits. ``metadata`` goes to
    ``minari.create_dataset_from_buffers`` (author, description …).
    """
    minari = _minari()
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    buffers: list[Any] = []
    for number in np.flatnonzero(store.episode_task == store.task_index(task)):
        episode = store.episode(int(number))
        length = len(episode.rewards)
        ends = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                id=len(buffers),
                observations=np.array(episode.observations),
                actions=np.array(episode.actions),
                rewards=np.array(episode.rewards),
                terminations=np.zeros(length, bool),
                truncations=ends,
            )
        )
    return minari.create_dataset_from_buffers(
        dataset_id=dataset_id,
        buffer=buffers,
        observation_space=Box(-np.inf, np.inf, (store.observation_dim,), np.float32),
        action_space=Box(-np.inf, np.inf, (store.action_dim,), np.float32),
        **metadata,
    )
