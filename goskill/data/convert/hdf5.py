"""HDF5 files in D4RL's layout: flat columns of transitions, cut where flags end episodes. Needs h5py."""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from goskill.data.columns import EPISODE_ENDS, checked_columns
from goskill.data.convert.copying import Part, Source, column_name, column_names, copy_source
from goskill.data.convert.ends import Ends, check_ends, check_marked, check_whole, kinds, kinds_of, last_flags
from goskill.data.convert.hdf5_columns import EPISODE_LIMIT, SUCCESS, Columns, opened
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, columns_of, content_of, joined
from goskill.data.layout import is_task_name
from goskill.data.store import EpisodeStore
from goskill.data.store_files import storage_errors
from goskill.errors import InputError, StoreError, optional

_STEPS_PER_PART = 4_000
_STEPS_PER_BLOCK = 1 << 20  # whose ends are read at once


def import_h5py() -> Any:
    """h5py. Raises InputError without it."""
    return optional("h5py", "HDF5 files need", "h5py")


def _opened(path: Path, further: tuple[str, ...]) -> AbstractContextManager[Columns]:
    """The columns of a file."""
    return opened(path, "D4RL", lambda file: Columns.of(file, further))


def _episode_ends(columns: Columns, ends: Ends) -> Iterator[int]:
    """The step behind each episode's last, read in blocks.

    StoreError for an episode that is too long, and for a file that says nowhere that an episode ends.
    """
    if ends == "marked":
        check_marked(columns.where, columns.flag_names, marked=True)
    elif ends != "file":
        check_whole(columns.where, columns.steps, int(ends))
    begin, marked = 0, False
    for first in range(0, columns.steps, _STEPS_PER_BLOCK):
        last = min(first + _STEPS_PER_BLOCK, columns.steps)
        found = columns.ends(ends, first, last)
        marked = marked or bool(found.any())
        found[-1] |= last == columns.steps
        for end in (first + 1 + np.flatnonzero(found)).tolist():
            _check_length(columns, end - begin)
            yield end
            begin = end
        _check_length(columns, last - begin)
    if ends == "marked" and columns.steps:
        check_marked(columns.where, columns.flag_names, marked)


def _check_length(columns: Columns, steps: int) -> None:
    limit = EPISODE_LIMIT // columns.step_bytes
    if steps > limit:
        raise StoreError(
            f"{columns.where}: expected episodes of at most {limit} steps of {columns.step_bytes} bytes, "
            f"got one of {steps} or more, whose end is not marked"
        )


def _tasks(files: list[Path]) -> dict[str, Path]:
    """The tasks that files are named after. StoreError names the files whose names will not do."""
    tasks: dict[str, Path] = {}
    for file in files:
        task = unquote(file.stem)
        if not is_task_name(task):
            raise StoreError(
                f"{file}: expected a name that says a task of 1 to 200 printable characters, got {task!r:.80}"
            )
        if task in tasks:
            raise StoreError(
                f"{file}: expected one file per task, got {tasks[task].name} for {task!r} as well"
            )
        tasks[task] = file
    return tasks


@dataclass
class _Plan:
    """What is to be read of some files, and how."""

    ends: Ends
    further: tuple[str, ...]
    parts: list[Part] = field(default_factory=list)
    flags: set[str] | None = None  # which kinds of ends every file marks
    types: dict[str, np.dtype[Any]] = field(default_factory=dict)  # of the further columns

    def add(self, task: str, path: Path) -> None:
        """Plan runs of whole episodes."""
        begin = 0
        with _opened(path, self.further) as columns:
            columns.check_stored()
            for end in _episode_ends(columns, self.ends):
                if end - begin >= _STEPS_PER_PART or end == columns.steps:
                    self.parts.append(Part((path, begin, end), (path,), task))
                    begin = end
            told = set(kinds(columns.flag_names)) if self.ends == "marked" else set()
            self.flags = told if self.flags is None else self.flags & told
            self.types = self.types or columns.types

    @property
    def columns(self) -> dict[str, Any]:
        """What the store declares."""
        ends = {kind: "?" for kind in EPISODE_ENDS if kind in (self.flags or ())}
        return ends | {column_name(name): type_ for name, type_ in self.types.items()}


def _known_success(where: str, success: npt.NDArray[np.int8] | None) -> npt.NDArray[np.int8] | None:
    """An episode's success, None if it was not recorded. StoreError if it was at some of its steps."""
    if success is None or (success == -1).all():
        return None
    if (success == -1).any():
        raise StoreError(f"{where}: {SUCCESS}: expected it at every step of the episode or at none")
    return success


def read_steps(
    key: tuple[Path, int, int], ends: Ends, further: tuple[str, ...], told: tuple[str, ...]
) -> Content:
    """The episodes among some steps of a file. StoreError names the file and the episode's steps."""
    path, first, last = key
    with _opened(path, further) as columns:
        numbers, success = columns.numbers(first, last), columns.success(first, last)
        found, flags = columns.ends(ends, first, last), columns.flags(first, last)
    declared = {column_name(name): numbers.pop(name) for name in further}
    declared |= {kind: flag for kind, flag in kinds_of(flags).items() if kind in told}
    found[-1] = True
    contents, begin = [], 0
    for end in (np.flatnonzero(found) + 1).tolist():
        where = f"{path}: steps {first + begin} to {first + end}"
        rows = slice(begin, end)
        episode = columns_of(where, {name: column[rows] for name, column in numbers.items()})
        known = _known_success(where, None if success is None else success[rows])
        values = {name: column[rows] for name, column in declared.items()}
        contents.append(content_of(where, episode, np.zeros(end - begin, bool), known, values))
        begin = end
    return joined(contents, list(flags) if ends == "marked" else [])


def from_hdf5(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    ends: Ends = "marked",
    columns: Sequence[str] = (),
    task: str | None = None,
) -> ConversionReport:
    """Convert a file in D4RL's layout, or a folder of them (a task per file, named after it, ``%2F`` for a slash),
    into a store, going on where an earlier call was interrupted.

    ``ends`` says where episodes end: "marked" where a flag does (``terminals``, ``timeouts``, ``dones``, or one of
    their other names: :data:`goskill.data.convert.ends.FLAGS`), "file" where the file does, or after as many steps
    each. A file without such flags, or that sets none of them, is refused unless ``ends`` says something else.

    ``columns`` names further datasets with a row per step, such as ``infos/qpos``, which become declared columns of
    the store (``infos_qpos``). So do ``terminated`` and ``truncated``, where all files mark them and say which it is.
    ``task`` names the task of a single file.

    ``workers``: processes that read, 0 for all cores. ``progress`` is called with (parts done, parts): a part is
    some thousand steps, and a few are in memory at a time. Without ``next_observations`` the last step of every
    episode is dropped, since nothing says where it led; where they are not the next observations, the episode is cut.
    Success is read from ``infos/success`` (1, 0, or -1 throughout an episode that it was not recorded for), if the
    file has it; that of a dropped step is told of the one before.

    Returns the report, also written to ``conversion.json``. Raises InputError without h5py, StoreError that names
    the file and the steps, or WorkerDied when a process is killed (calling again goes on).
    """
    import_h5py()
    check_ends(ends)
    column_names(columns)  # raises
    root = Path(source)
    if task is not None and root.is_dir():
        raise InputError(f"task: expected none for a folder, whose files say their tasks, got {task!r:.80}")
    files = sorted([*root.glob("*.hdf5"), *root.glob("*.h5")]) if root.is_dir() else [root]
    if not root.exists():
        raise StoreError(f"{root}: there is no such file or folder")
    if not files:
        raise StoreError(f"{root}: found no .hdf5 files")
    plan = _Plan(ends, tuple(columns))
    for name, file in ({task: files[0]} if task is not None else _tasks(files)).items():
        plan.add(name, file)
    declared = checked_columns("columns", plan.columns, texts=False)
    told = tuple(kind for kind in EPISODE_ENDS if kind in declared)
    read = functools.partial(read_steps, ends=ends, further=plan.further, told=told)
    details = {} if ends == "marked" else {"ends": ends}
    steps = Source(root, "hdf5", details, plan.parts, read, columns=declared)
    return copy_source(steps, path, workers, progress)


class _Output(io.FileIO):
    """The file that HDF5 writes into. Its first error is kept, since HDF5 crashes when it cannot finish a file."""

    error: OSError | None = None

    def write(self, block: Any) -> int:
        rest = memoryview(block).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the first error."""
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, self.name)


def file_name(task: str) -> str:
    """The name of a task's file, which lies in its folder whatever the task is called; ``unquote`` undoes it."""
    quoted = task.replace("%", "%25").replace("/", "%2F")
    return f"%2E{quoted[1:]}.hdf5" if quoted.startswith(".") else f"{quoted}.hdf5"


def _write_task(store: EpisodeStore, episodes: npt.NDArray[np.int64], path: Path) -> None:
    with _Output(path, "xb+") as output:
        try:
            with import_h5py().File(output, "w") as file:
                _write_episodes(store, episodes, file, output)
        finally:
            output.check()


def _write_episodes(store: EpisodeStore, episodes: npt.NDArray[np.int64], file: Any, output: _Output) -> None:
    steps = int(store.episode_length[episodes].sum())
    observations = file.create_dataset("observations", (steps, store.observation_dim), "f4")
    actions = file.create_dataset("actions", (steps, store.action_dim), "f4")
    rewards = file.create_dataset("rewards", (steps,), "f4")
    following = file.create_dataset("next_observations", (steps, store.observation_dim), "f4")
    terminals = file.create_dataset("terminals", (steps,), "?")
    timeouts = file.create_dataset("timeouts", (steps,), "?")
    further = {
        name: file.create_dataset(name, (steps, *type_.shape), type_.base)
        for name, type_ in store.columns.items()
        if name not in EPISODE_ENDS
    }
    success, begin = None, 0
    for number in episodes.tolist():
        episode = store.episode(number)
        end = begin + len(episode.rewards)
        observations[begin:end] = episode.observations[:-1]
        following[begin:end] = episode.observations[1:]
        actions[begin:end] = episode.actions
        rewards[begin:end] = episode.rewards
        terminals[end - 1], timeouts[end - 1] = last_flags(episode)
        for name, column in further.items():
            column[begin:end] = episode.columns[name]
        if episode.success is not None:
            if success is None:
                success = file.create_dataset(SUCCESS, (steps,), "i1", fillvalue=-1)
            success[begin:end] = episode.success
        output.check()
        begin = end


def to_hdf5(store: EpisodeStore, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a store as files in D4RL's layout, one per task, into a new folder. Returns the files.

    Columns: ``observations``, ``actions``, ``rewards``, ``next_observations``, ``terminals`` (where the store declares
    ``terminated``, and False otherwise), ``timeouts`` (True at the last step of every other episode),
    ``infos/success`` (int8: after each step, -1 in episodes that it was not recorded for) if any episode of the task
    has it, and the store's other declared columns of steps. A file is named after its task; ``%``, ``/`` and a
    leading dot are percent-encoded.

    Raises InputError without h5py, or StoreError (and leaves no folder) if the files cannot be written.
    """
    import_h5py()
    target = Path(folder)
    files = [target / file_name(task) for task in store.tasks]
    with storage_errors(target):
        target.mkdir(parents=True)
        try:
            for index, file in enumerate(files):
                _write_task(store, np.flatnonzero(store.episode_task == index), file)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return files
