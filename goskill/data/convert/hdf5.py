"""HDF5 files in D4RL's layout: flat columns of transitions, cut by ``terminals`` and ``timeouts``. Needs h5py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from goskill.data.convert.copying import Part, Source, copy_source
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, columns_of, content_of
from goskill.data.store import EpisodeStore
from goskill.errors import InputError, StoreError

_COLUMNS = ("observations", "actions", "rewards", "next_observations")
_EPISODE_LIMIT = 10_000_000
_STEPS_PER_PART = 4_000


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise InputError("HDF5 files need the package h5py: pip install h5py") from error
    return h5py  # type: ignore[no-any-return]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file; what is wrong with it or with the columns in it becomes a StoreError that names it."""
    try:
        with _h5py().File(path, "r") as file:
            yield file
    except StoreError:
        raise
    except (OSError, KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path}: is not an HDF5 file in D4RL's layout: {error}") from error


def _ends(file: Any, begin: int, end: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where episodes end among some steps; the last of them always does."""
    ends = np.zeros(end - begin, bool)
    for name in ("terminals", "timeouts"):
        if name in file:
            if len(file[name]) != len(file["rewards"]):
                raise StoreError(
                    f"{file.filename}: expected {len(file['rewards'])} {name}, got {len(file[name])}"
                )
            ends |= np.asarray(file[name][begin:end]).reshape(-1).astype(bool)
    ends[-1] = True
    return ends


def _parts(path: Path) -> list[Part]:
    """Runs of whole episodes."""
    with _opened(path) as file:
        length = len(file["rewards"])
        ends = np.flatnonzero(_ends(file, 0, length)) + 1 if length else np.zeros(0, np.int64)
    longest = int(np.diff(ends, prepend=0).max(initial=0))
    if longest > _EPISODE_LIMIT:
        raise StoreError(f"{path}: an episode of {longest} steps, terminals or timeouts are missing")
    parts, begin = [], 0
    for end in ends.tolist():
        if end - begin >= _STEPS_PER_PART or end == length:
            parts.append(Part(path.stem, (path, begin, end)))
            begin = end
    return parts


def read_steps(key: tuple[Path, int, int]) -> Content:
    """The episodes among some steps of a file. StoreError names the file and the episode's steps."""
    path, first, last = key
    with _opened(path) as file:
        columns = {name: np.asarray(file[name][first:last]) for name in _COLUMNS if name in file}
        ends = _ends(file, first, last)
    contents, begin = [], 0
    for end in (np.flatnonzero(ends) + 1).tolist():
        where = f"{path}: steps {first + begin} to {first + end}"
        episode = columns_of(where, {name: column[begin:end] for name, column in columns.items()})
        contents.append(content_of(where, episode, np.zeros(end - begin, bool)))
        begin = end
    return Content(
        [episode for content in contents for episode in content.episodes],
        sum(content.cuts for content in contents),
        [what for content in contents for what in content.split],
        [what for content in contents for what in content.shortened],
    )


def from_hdf5(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a file in D4RL's layout, or a folder of them (a task per file, named after it), into a store, going on
    where an earlier call was interrupted.

    ``workers``: processes that read, 0 for all cores. ``progress`` is called with (parts done, parts): a part is
    some thousand steps, and a few are in memory at a time. Without ``next_observations`` the last step of every
    episode is dropped, since nothing says where it led; where they are not the next observations, the episode is cut.

    Returns the report, also written to ``conversion.json``. Raises InputError without h5py, StoreError that names
    the file and the steps, or WorkerDied when a process is killed (calling again goes on).
    """
    _h5py()
    root = Path(source)
    files = sorted([*root.glob("*.hdf5"), *root.glob("*.h5")]) if root.is_dir() else [root]
    if not root.exists():
        raise StoreError(f"{root}: there is no such file or folder")
    if not files:
        raise StoreError(f"{root}: found no .hdf5 files")
    parts = [part for file in files for part in _parts(file)]
    steps = Source(str(root), "hdf5", {"source": str(root.resolve())}, parts, read_steps)
    _, report = copy_source(steps, path, workers, progress)
    report.write(Path(path))
    return report


def to_hdf5(store: EpisodeStore, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a store as files in D4RL's layout, one per task, into a new folder. Returns the files.

    Columns: ``observations``, ``actions``, ``rewards``, ``next_observations``, ``terminals`` (all False: the store
    does not tell ends from time limits) and ``timeouts`` (True at the last step of every episode).
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
