"""HDF5 files in D4RL's layout: flat columns of transitions, cut by ``terminals`` and ``timeouts``. Needs h5py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import append_episode, columns_of, episodes_of
from goskill.data.store import EpisodeStore
from goskill.data.writer import StoreWriter
from goskill.errors import InputError, StoreError

_COLUMNS = ("observations", "actions", "rewards", "next_observations")
_EPISODE_LIMIT = 10_000_000


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise InputError("HDF5 files need the package h5py: pip install h5py") from error
    return h5py  # type: ignore[no-any-return]


def _flags(file: Any, name: str, length: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    flags = np.zeros(length, bool) if name not in file else np.asarray(file[name]).reshape(-1).astype(bool)
    if len(flags) != length:
        raise StoreError(f"{file.filename}: expected {length} {name}, got {len(flags)}")
    return flags


def _copy_file(file: Any, task: str, writer: StoreWriter, report: ConversionReport) -> None:
    length = len(file["rewards"])
    cuts = _flags(file, "terminals", length) | _flags(file, "timeouts", length)
    cuts[-1] = True
    begin = 0
    for end in (np.flatnonzero(cuts) + 1).tolist():
        if end - begin > _EPISODE_LIMIT:
            raise StoreError(
                f"{file.filename}: an episode of {end - begin} steps, terminals or timeouts are missing"
            )
        where = f"{file.filename}: steps {begin} to {end}"
        columns = columns_of(where, {name: file[name][begin:end] for name in _COLUMNS if name in file})
        episodes, further, dropped = episodes_of(columns, np.zeros(end - begin, bool))
        if further:
            report.add("split", f"{where}: {further} times")
        if dropped:
            report.add("shortened", where)
        for episode in episodes:
            append_episode(writer, where, task, episode)
        begin = end


def from_hdf5(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a file in D4RL's layout, or a folder of them (a task per file, named after it), into a new
    store.

    One episode is in memory at a time. Without ``next_observations`` the last step of every episode is
    dropped, since nothing says where it led. Raises InputError without h5py, and StoreError that names the
    file and the steps.
    """
    h5py = _h5py()
    root, target = Path(source), Path(path)
    files = sorted([*root.glob("*.hdf5"), *root.glob("*.h5")]) if root.is_dir() else [root]
    if not root.exists():
        raise StoreError(f"{root}: there is no such file or folder")
    if not files:
        raise StoreError(f"{root}: found no .hdf5 files")
    report = ConversionReport(source=str(root))
    try:
        with h5py.File(files[0], "r") as file:
            dimensions = [int(file[name].shape[1]) for name in ("observations", "actions")]
        provenance = {"converter": "goskill", "layout": "hdf5", "source": str(root.resolve())}
        tasks = [file.stem for file in files]
        with StoreWriter(target, dimensions[0], dimensions[1], tasks, provenance, unfinished=True) as writer:
            for done, name in enumerate(files):
                with h5py.File(name, "r") as file:
                    _copy_file(file, name.stem, writer, report)
                if progress is not None:
                    progress(done + 1, len(files))
            writer.finish()
    except (OSError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise StoreError(f"{root}: is not an HDF5 file in D4RL's layout: {error}") from error
    store = EpisodeStore.open(target)
    report.count(store)
    report.write(target)
    return report


def to_hdf5(store: EpisodeStore, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a store as files in D4RL's layout, one per task, into a new folder. Returns the files.

    Columns: ``observations``, ``actions``, ``rewards``, ``next_observations``, ``terminals`` (all False:
        the store does
    not tell ends from time limits) and ``timeouts`` (True at the last step of every episode).
    """
    h5py = _h5py()
    target = Path(folder)
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from error
    files = []
    for index, task in enumerate(store.tasks):
        episodes = np.flatnonzero(store.episode_task == index)
        steps = int(store.episode_length[episodes].sum())
        files.append(target / f"{task}.hdf5")
        with h5py.File(files[-1], "w") as file:
            widths = {"observations": store.observation_dim, "actions": store.action_dim}
            widths["next_observations"] = store.observation_dim
            for name, width in widths.items():
                file.create_dataset(name, (steps, width), "f4")
            file.create_dataset("rewards", (steps,), "f4")
            file.create_dataset("terminals", (steps,), "?")
            file.create_dataset("timeouts", (steps,), "?")
            begin = 0
            for number in episodes:
                episode = store.episode(int(number))
                end = begin + len(episode.rewards)
                file["observations"][begin:end] = episode.observations[:-1]
                file["next_observations"][begin:end] = episode.observations[1:]
                file["actions"][begin:end] = episode.actions
                file["rewards"][begin:end] = episode.rewards
                file["timeouts"][end - 1] = True
                begin = end
    return files
