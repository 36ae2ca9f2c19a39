"""Vintix's HDF5 files: a training history each, in groups of steps named by their range. Needs h5py."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.convert.copying import Part, Source, copy_source
from goskill.data.convert.hdf5 import import_h5py
from goskill.data.convert.hdf5_columns import check_episode, opened, own_datasets
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, columns_of, content_of, joined
from goskill.data.layout import is_task_name
from goskill.data.store_files import read_whole
from goskill.envs.metaworld.tasks import tasks_of
from goskill.errors import InputError, StoreError, closest
from goskill.files import parse_json

_STEPS_PER_PART = 4_000
_METADATA_LIMIT = 1 << 20
_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")
_VERSION = re.compile(r"-v[0-9]+$")
_COLUMNS = {"observations": "proprio_observation", "actions": "action", "rewards": "reward"}
_STEP = "step_num"


def from_vintix(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert tasks of Vintix's dataset into a store, going on where an earlier call was interrupted.

    ``source``: the folder of a task (``reach-v2/*.h5``), or of several (``metaworld``), whose observations and
    actions must be of one size. A file holds a training history in groups of steps (``0-9999``); an episode begins
    where ``step_num`` is 0, and may reach over groups. Where ``step_num`` jumps the episode is cut. Nothing says what
    follows an episode's last step, which is dropped, how it ended, or whether it succeeded.

    A task is called as its folder's ``.json`` says, or as the folder; MetaWorld's, whose rewards are of version 2,
    lose their suffix. ``tasks``: only these. ``workers``: processes that read, 0 for all cores. ``progress`` is
    called with (parts done, parts): a part is some thousand steps.

    Returns the report, also written to ``conversion.json``. Raises InputError without h5py and for unknown tasks,
    StoreError that names the file and the steps, or WorkerDied when a process is killed (calling again goes on).
    """
    import_h5py()
    root = Path(source)
    folders = _chosen(_task_folders(root), tasks)
    parts = [
        part for task, folder in folders.items() for file in _histories(folder) for part in _parts(task, file)
    ]
    metaworld = set(tasks_of("mt50"))
    details = (
        {"environments": "MetaWorld v2", "reward_version": "v2"} if metaworld.issuperset(folders) else {}
    )
    histories = Source(root, "vintix", details, parts, read_steps)
    return copy_source(histories, path, workers, progress)


def _histories(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.h5"))


def _task_folders(root: Path) -> dict[str, Path]:
    """The folders with histories by their tasks. StoreError if there is none, or two of one task."""
    if not root.is_dir():
        raise StoreError(f"{root}: there is no such folder")
    folders: dict[str, Path] = {}
    for folder in [root, *sorted(below for below in root.rglob("*") if below.is_dir())]:
        if _histories(folder):
            task = _task(folder)
            if task in folders:
                raise StoreError(f"{folder}: expected one folder of {task!r}, got {folders[task]} as well")
            folders[task] = folder
    if not folders:
        raise StoreError(f"{root}: found no .h5 files")
    return folders


def _task(folder: Path) -> str:
    metadata, name = folder / f"{folder.name}.json", folder.name
    if os.path.lexists(metadata):
        try:
            facts = parse_json(read_whole(metadata, _METADATA_LIMIT, "metadata"))
        except ValueError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{metadata}: is not valid JSON") from error
        name = facts.get("task_name", name) if isinstance(facts, dict) else name
    if not is_task_name(name):
        raise StoreError(f"{folder}: expected a task of 1 to 200 printable characters, got {name!r:.80}")
    short = _VERSION.sub("", name)
    return short if short in tasks_of("mt50") else name


def _chosen(folders: dict[str, Path], tasks: Sequence[str] | None) -> dict[str, Path]:
    if tasks is None:
        return folders
    if not tasks:
        raise InputError("tasks: expected at least one task, got none")
    wanted = []
    for task in tasks:
        name = task if task in folders else _VERSION.sub("", task)
        if name not in folders:
            raise InputError(
                f"tasks: expected tasks of the source, got {task!r:.80}; {closest(task, folders)}"
            )
        wanted.append(name)
    return {task: folder for task, folder in folders.items() if task in wanted}


def _opened(path: Path) -> AbstractContextManager[_History]:
    """The groups of a file."""
    return opened(path, "Vintix", lambda file: _History(path, file))


class _History:
    """The groups of an open file, in the order of their ranges. They are looked at when their steps are asked for."""

    def __init__(self, path: Path, file: Any) -> None:
        self.where = str(path)
        ranges = {name: _RANGE.fullmatch(name) for name in file}
        strange = [name for name, found in ranges.items() if found is None]
        if strange or not ranges:
            raise StoreError(f"{path}: expected groups named by their steps (0-9999), got {strange!r:.200}")
        self._file = file
        self._groups = sorted((int(name.split("-")[0]), name) for name in ranges)
        self._begins = [begin for begin, _ in self._groups]
        if self._begins[0] != 0:
            raise StoreError(f"{path}: {self._groups[0][1]}: expected the group that begins with step 0")

    def _datasets(self, place: int) -> dict[str, Any]:
        """The datasets of a group, which ends where the next one begins."""
        begin, name = self._groups[place]
        where, found = f"{self.where}: {name}", {}
        for path, dataset in own_datasets(where, self._file, name).items():
            found[path.removeprefix(f"{name}/")] = dataset
        for column in (*_COLUMNS.values(), _STEP):
            if column not in found:
                raise StoreError(f"{where}: expected the dataset {column!r}, got {sorted(found)!r:.200}")
            if not found[column].shape or found[column].dtype.kind not in "biuf":
                raise StoreError(f"{where}: {column}: expected rows of numbers, got {found[column]!r:.80}")
        datasets = {column: found[column] for column in (*_COLUMNS.values(), _STEP)}
        lengths = {column: len(dataset) for column, dataset in datasets.items()}
        if len(set(lengths.values())) != 1:
            raise StoreError(f"{where}: expected as many rows of each dataset, got {lengths}")
        end = begin + lengths[_STEP]
        if place + 1 < len(self._begins) and end != self._begins[place + 1]:
            raise StoreError(f"{where}: expected the group behind it to begin with step {end}")
        check_episode(where, datasets)
        return datasets

    @property
    def steps(self) -> int:
        return self._begins[-1] + len(self._datasets(len(self._begins) - 1)[_STEP])

    def rows(self, column: str, first: int, last: int) -> npt.NDArray[Any]:
        """Some steps of a column, over several groups."""
        pieces = []
        for place in range(bisect.bisect_right(self._begins, first) - 1, len(self._begins)):
            begin = self._begins[place]
            if begin >= last:
                break
            pieces.append(np.asarray(self._datasets(place)[column][max(first - begin, 0) : last - begin]))
        return np.concatenate(pieces)

    def cuts(self, first: int, last: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which of some steps begin an episode, and which do not but do not follow the one before either."""
        numbers = self.rows(_STEP, max(first - 1, 0), last).reshape(-1)
        if numbers.dtype.kind not in "iu" or len(numbers) != last - max(first - 1, 0):
            raise StoreError(f"{self.where}: {_STEP}: expected an integer for each step, got {numbers.dtype}")
        before = np.concatenate([[-1] if first == 0 else [], numbers]).astype(np.int64)
        begins = before[1:] == 0
        return begins, ~begins & (np.diff(before) != 1)


def _parts(task: str, path: Path) -> list[Part]:
    """Runs of whole episodes."""
    parts, first = [], 0
    with _opened(path) as history:
        begins, _ = history.cuts(0, history.steps)
    for place in [*np.flatnonzero(begins[1:] if len(begins) else []) + 1, len(begins)]:
        if place - first >= _STEPS_PER_PART or (place == len(begins) and place > first):
            parts.append(Part((path, first, int(place)), (path,), task))
            first = int(place)
    return parts


def read_steps(key: tuple[Path, int, int]) -> Content:
    """The episodes among some steps of a file. StoreError names the file and the episode's steps."""
    path, first, last = key
    with _opened(path) as history:
        arrays = {name: history.rows(column, first, last) for name, column in _COLUMNS.items()}
        begins, jumps = history.cuts(first, last)
    columns = columns_of(f"{path}: steps {first} to {last}", arrays)
    begins[0] = True
    places = [*np.flatnonzero(begins | jumps).tolist(), last - first]
    contents = []
    for begin, end in itertools.pairwise(places):
        where = f"{path}: steps {first + begin} to {first + end}"
        rows = {name: values[begin:end] for name, values in columns.items()}
        contents.append(content_of(where, rows, np.zeros(end - begin, bool)))
    found = joined(contents, [_STEP])
    jumped = int(jumps.sum())
    where = f"{path}: steps {first} to {last}: {jumped} times"
    return dataclasses.replace(found, split=[where]) if jumped else found
