"""Minari datasets, both ways. Needs minari."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from goskill.data.convert.report import ConversionReport
from goskill.data.store import EpisodeStore
from goskill.data.writer import StoreWriter
from goskill.errors import InputError, StoreError


def _minari() -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise InputError("Minari datasets need the package minari: pip install 'minari[hdf5]'") from error
    return minari  # type: ignore[no-any-return]


def from_minari(
    dataset: str | Any, path: str | os.PathLike[str], task: str | None = None
) -> ConversionReport:
    """Convert a Minari dataset (its id, if it is on this machine, or the object) of flat arrays into a new
    store.

    ``task`` names the one task, by default as the dataset. An episode's last observation is kept. Success
    is read from the info ``success`` where it was recorded at every step.
    """
    minari = _minari()
    if isinstance(dataset, str):
        try:
            dataset = minari.load_dataset(dataset)
        except (FileNotFoundError, ValueError, OSError) as error:
            raise StoreError(f"Minari dataset {dataset!r}: {error}") from error
    name = str(dataset.spec.dataset_id)
    report = ConversionReport(source=name)
    writer: StoreWriter | None = None
    try:
        for episode in dataset.iterate_episodes():
            observations, actions = np.asarray(episode.observations), np.asarray(episode.actions)
            if observations.ndim != 2 or actions.ndim != 2:
                raise StoreError(
                    f"{name}: expected flat observations and actions, got {observations.shape} and {actions.shape}"
                )
            if writer is None:
                widths = observations.shape[1], actions.shape[1]
                provenance = {"converter": "goskill", "layout": "minari", "source": name}
                writer = StoreWriter(path, *widths, [task or name], provenance, unfinished=True)
            infos = episode.infos if isinstance(episode.infos, dict) else {}
            success = np.asarray(infos["success"])[1:] if "success" in infos else None
            if success is not None and len(success) != len(actions):
                success = None
            writer.append(
                task=task or name,
                observations=observations,
                actions=actions,
                rewards=episode.rewards,
                success=success,
            )
        if writer is not None:
            writer.finish()
    except BaseException:
        if writer is not None:
            writer.discard()
        raise
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise StoreError(f"{name}: holds no episodes")
    store = EpisodeStore.open(path)
    report.count(store)
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
