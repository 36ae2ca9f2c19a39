"""Writing episode stores."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import checked_columns, declared_values, manifest_entry
from goskill.data.episode import CheckedBlock, CheckedEpisode
from goskill.data.layout import DECLARING_VERSION, FORMAT, VERSION, StoreLayout, is_task_name, shard_name
from goskill.data.shard_writer import ShardWriter
from goskill.data.store_files import (
    MANIFEST,
    open_lock,
    remove_temporaries,
    storage_errors,
    temporary_folder,
    write_manifest,
)
from goskill.errors import InputError, StoreError, closest

_LOCK = ".lock"


def _returns_to_go(rewards: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Undiscounted, of episodes [E, T]. InputError where they do not fit float32, as which they are stored."""
    returns: npt.NDArray[np.float64] = np.cumsum(rewards[:, ::-1], axis=1, dtype=np.float64)[:, ::-1]
    largest = float(np.abs(returns).max())
    if largest > float(np.finfo(np.float32).max):
        raise InputError(f"rewards: expected returns that fit float32, got {largest:.3g}")
    return returns


class StoreWriter:
    """Writes episodes into a store: ``with StoreWriter(...) as writer: writer.append(...)``.

    Episodes gather in a hidden shard, which becomes visible as a whole by an atomic rename: when it is
    full, on :meth:`flush`, and on leaving the ``with`` block (by an exception, too: every appended episode
    is complete). A killed writer loses at most its unfinished shard. Only one writer at a time may have a
    store open.

    Parameters
    ----------
    path: the folder of the store. It must not exist (or be empty) unless ``append`` is set.
    observation_dim, action_dim: sizes of one observation and one action.
    tasks: distinct task names. When appending, those that the store does not know are added behind its own.
    provenance: where the data comes from (collector, policy, seeds, package versions …), JSON-able.
    append: go on writing to the store if there is one already. Its dimensions must be the same.
    shard_steps: a shard is closed when it holds at least this many steps.
    columns: further columns of the steps by name, as NumPy dtypes: ``{"terminated": bool, "feature": ("f2", 512)}``.
        ``terminated`` and ``truncated`` are bool. When appending: those of the store, or None.
    episode_columns: further columns of the episodes, which may hold text: ``{"source": "U64"}``, of up to 64 letters.
    unfinished: mark the store as unfinished until :meth:`finish`, for programs that know when everything is there.
        Without ``append``, what such a program with the same provenance left unfinished is written anew.

    Raises
    ------
    InputError: an argument is wrong. StoreError: the store exists, does not fit, is being written by another
    writer, or cannot be written (no space left, no permission).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        observation_dim: int,
        action_dim: int,
        tasks: Sequence[str],
        provenance: Mapping[str, Any] | None = None,
        append: bool = False,
        shard_steps: int = 1_000_000,
        unfinished: bool = False,
        *,
        columns: Mapping[str, npt.DTypeLike] | None = None,
        episode_columns: Mapping[str, npt.DTypeLike] | None = None,
    ) -> None:
        self.path = Path(path)
        for name, value in (
            ("observation_dim", observation_dim),
            ("action_dim", action_dim),
            ("shard_steps", shard_steps),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise InputError(f"{name}: expected an integer of at least 1, got {value!r}")
        self.observation_dim = int(observation_dim)
        self.action_dim = int(action_dim)
        self._shard_steps = int(shard_steps)
        self._provenance = self._checked_provenance(provenance)
        self._unfinished = unfinished
        self._shard: ShardWriter | None = None
        self._lock: io.FileIO | None = None
        self._columns = checked_columns("columns", columns, texts=False)
        self._episode_columns = checked_columns("episode_columns", episode_columns, texts=True)
        twice = next((name for name in self._episode_columns if name in self._columns), None)
        if twice is not None:
            raise InputError(f"episode_columns: expected other names than those of columns, got {twice!r}")
        wanted = self._checked_tasks(tasks)
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path}: expected a folder for the episode store, there is a file")
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        try:
            with storage_errors(self.path):
                self._begin(wanted, append, columns is not None, episode_columns is not None)
        except BaseException:
            self._release_lock()
            raise

    @staticmethod
    def _checked_tasks(tasks: Sequence[str]) -> list[str]:
        if isinstance(tasks, str):
            raise InputError(f"tasks: expected a list of names, got the string {tasks!r}")
        for task in tasks:
            if not is_task_name(task):
                raise InputError(f"tasks: expected printable names of 1 to 200 characters, got {task!r:.80}")
        if len(set(tasks)) != len(tasks):
            raise InputError("tasks: expected distinct names, got one more than once")
        return list(tasks)

    @staticmethod
    def _checked_provenance(provenance: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            copied = json.loads(json.dumps(dict(provenance or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"provenance: expected values that JSON can hold ({error})") from error
        return dict(copied)

    def _take_lock(self) -> None:
        lock = open_lock(self.path / _LOCK)  # held as long as the writer is open
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise StoreError(f"{self.path}: another writer has this store open") from error
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _begin(self, tasks: list[str], append: bool, columns: bool, episode_columns: bool) -> None:
        if not (self.path / MANIFEST).exists():
            foreign = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
            if foreign:
                raise StoreError(
                    f"{self.path}: is not empty and not an episode store (it has {foreign[0]!r})"
                )
            remove_temporaries(self.path)
            self._tasks, self._shards, self._all_provenance = tasks, 0, []
            self._write_store_manifest()
            return
        layout = StoreLayout.read(self.path)
        if not append:
            if not (self._unfinished and layout.unfinished and layout.provenance in ([], [self._provenance])):
                raise StoreError(
                    f"{self.path}: there is an episode store already: give another folder, or append=True to add to it"
                )
            self._start_over(tasks, layout)
            return
        self._unfinished = self._unfinished or layout.unfinished
        for name, here, there in (
            ("observation_dim", self.observation_dim, layout.observation_dim),
            ("action_dim", self.action_dim, layout.action_dim),
        ):
            if here != there:
                raise InputError(f"{name}: expected {there} as in {self.path}, got {here}")
        if columns and self._columns != layout.columns:
            raise InputError(f"columns: expected those that {self.path} declares or None, got others")
        if episode_columns and self._episode_columns != layout.episode_columns:
            raise InputError(f"episode_columns: expected those that {self.path} declares or None, got others")
        self._columns, self._episode_columns = layout.columns, layout.episode_columns
        remove_temporaries(self.path)
        self._shards = len(layout.shards)
        self._all_provenance = layout.provenance
        self._tasks = layout.tasks + [task for task in tasks if task not in layout.tasks]
        if self._tasks != layout.tasks:
            self._write_store_manifest()

    def _start_over(self, tasks: list[str], layout: StoreLayout) -> None:
        self._tasks, self._shards, self._all_provenance = tasks, 0, []
        self._write_store_manifest()
        # From the last to the first, so that the store can be opened whenever this stops.
        for shard in reversed(layout.shards):
            os.rename(shard.folder, temporary_folder(self.path))
        remove_temporaries(self.path)

    def _write_store_manifest(self) -> None:
        declares = bool(self._columns or self._episode_columns)
        content = {
            "format": FORMAT,
            "version": DECLARING_VERSION if declares else VERSION,
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "tasks": self._tasks,
            "shards": self._shards,
            "provenance": self._all_provenance,
        }
        if declares:
            content["columns"] = manifest_entry(self._columns)
            content["episode_columns"] = manifest_entry(self._episode_columns)
        if self._unfinished:
            content["unfinished"] = True
        write_manifest(self.path / MANIFEST, content)

    @property
    def tasks(self) -> list[str]:
        """The task names of the store, in the order of their indices."""
        return list(self._tasks)

    def append(
        self,
        *,
        task: str,
        observations: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        success: npt.ArrayLike | None = None,
        columns: Mapping[str, npt.ArrayLike] | None = None,
        episode_columns: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one episode of T >= 1 steps.

        ``observations`` [T + 1, observation_dim] with the final one, ``actions`` [T, action_dim], ``rewards``
        [T]: real numbers, finite in float32, as which they are stored. Actions outside [-1, 1], which no network here
        can give, are kept as they are and counted (:attr:`EpisodeStore.actions_outside`). ``success``: the truth
        value after each step [T], or one for the whole episode (kept at its last step), or None if it was not
        recorded. ``columns`` and ``episode_columns``: values of all that the store declares, [T, ...] and one per
        episode, which their types can hold (floats are rounded); ``terminated`` and ``truncated`` as [T], true at the
        last step at most, or as one truth value of the last step.

        Raises InputError (nothing is written) or StoreError (the unfinished shard is gone, and the writer
        closed).
        """
        self.append_checked(
            task,
            CheckedEpisode.of(
                observations,
                actions,
                rewards,
                success,
                self.observation_dim,
                self.action_dim,
                columns,
                episode_columns,
            ),
        )

    def append_checked(self, task: str, episode: CheckedEpisode) -> None:
        """:meth:`append` for an episode that was checked already, perhaps by another process."""
        self.append_block([task], CheckedBlock.single(episode))

    def append_block(self, tasks: Sequence[str], block: CheckedBlock) -> None:
        """:meth:`append` for episodes of the same length, each of its own task, that were checked already."""
        if self._lock is None:
            raise InputError("append: the writer is closed")
        episodes, length = block.rewards.shape
        indices = self._task_indices(tasks)
        if len(indices) != episodes:
            raise InputError(f"tasks: expected one for each of {episodes} episodes, got {len(indices)}")
        for name, dim, rows in (
            ("observations", self.observation_dim, block.observations),
            ("actions", self.action_dim, block.actions),
        ):
            if rows.shape[2] != dim:
                raise InputError(f"{name}: expected rows of {dim}, got shape {list(rows.shape[1:])}")
        steps = {
            name: rows.reshape(episodes * length, *rows.shape[2:]) for name, rows in block.columns.items()
        }
        declared = {
            **declared_values("columns", self._columns, steps, episodes * length),
            **declared_values("episode_columns", self._episode_columns, block.episode_columns, episodes),
        }
        returns_to_go = _returns_to_go(block.rewards)
        complete = False
        try:
            with storage_errors(self.path):
                if self._shard is None:
                    every = {**self._columns, **self._episode_columns}
                    self._shard = ShardWriter(self.path, self.observation_dim, self.action_dim, every)
                self._shard.append(indices, block, returns_to_go, declared)
                complete = True
        finally:
            if not complete:
                self._fail()
        if self._shard.steps >= self._shard_steps:
            self.flush()

    def _task_indices(self, tasks: Sequence[str]) -> npt.NDArray[np.int64]:
        known = {name: index for index, name in enumerate(self._tasks)}
        for task in tasks:
            if not isinstance(task, str) or task not in known:
                raise InputError(
                    f"task: expected one of the store's {len(known)} tasks, got {task!r:.80}; "
                    f"{closest(str(task), known)}"
                )
        return np.array([known[task] for task in tasks], dtype=np.int64)

    def flush(self, note: Mapping[str, Any] | None = None) -> None:
        """Close the current shard, if it holds an episode: it is on disk and visible afterwards.

        ``note``, JSON-able, is kept with the shard (:attr:`EpisodeStore.shard_notes`): what a program
        needs to go on where the shard ends.
        """
        shard = self._shard
        if shard is None:
            return
        try:
            with storage_errors(self.path):
                shard.publish(self.path / shard_name(self._shards), self._provenance, note or {})
                self._shard = None
                self._shards += 1
                if self._provenance not in self._all_provenance:
                    self._all_provenance = [*self._all_provenance, self._provenance]
                self._write_store_manifest()
        except BaseException:
            self._fail()
            raise

    def finish(self) -> None:
        """Flush, and take back that the store is unfinished."""
        self.flush()
        if self._unfinished:
            self._unfinished = False
            with storage_errors(self.path):
                self._write_store_manifest()

    def close(self) -> None:
        """Flush and let other writers in. Closing twice does nothing."""
        if self._lock is None:
            return
        try:
            self.flush()
        finally:
            self._release_lock()

    def discard(self) -> None:
        """Drop the episodes that are not flushed yet."""
        if self._shard is not None:
            self._shard.discard()
            self._shard = None

    def _fail(self) -> None:
        self.discard()
        self._release_lock()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self.close()
            return
        # The exception under way says more than a second one from closing.
        with contextlib.suppress(StoreError):
            self.close()
