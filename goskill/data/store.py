"""Reading episode stores."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from goskill import _core
from goskill.data.available_memory import check_memory
from goskill.data.columns import Array, native_columns
from goskill.data.declared_columns import DeclaredColumns
from goskill.data.episode import Episode
from goskill.data.label_blocks import LabelBlocks
from goskill.data.labels import (
    LABELS,
    check_labels_writable,
    label_folder,
    label_names,
    may_hold_labels,
    read_label_manifest,
    write_labels,
)
from goskill.data.layout import StoreLayout
from goskill.data.normalization import Normalization, Statistics
from goskill.data.store_files import storage_errors
from goskill.data.store_info import store_info
from goskill.data.verification import verify
from goskill.errors import InputError, StoreError, closest

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = "prompts"  # the folder of the prompts that a conversion found
Int64Array = npt.NDArray[np.int64]


class EpisodeStore:
    """Episodes on disk, memory-mapped or copied to memory: open one with :meth:`open`.

    A store is a folder of shards; a shard is a folder of plain ``.npy`` columns (``observations`` float32
    [steps + episodes, observation_dim], with every episode's final one; ``actions``, ``rewards``,
    ``returns_to_go``, ``success``, and the episodes' ``episode_start``, ``episode_length``, ``episode_task``,
    ``episode_return``), the columns that the store declares (:attr:`columns`, :attr:`episode_columns`), and a
    manifest. An open store keeps what it saw: shards added later are seen by
    opening again. Files must not be truncated or overwritten in place while a store is open (replacing
    them by renaming is harmless).
    """

    def __init__(self, layout: StoreLayout, in_memory: bool = False, labels: Path | None = None) -> None:
        self._layout = layout
        self._in_memory = in_memory
        self.labels_folder = labels
        own = layout.path / LABELS
        self._label_roots = [own] if labels is None else [labels, own]
        shards = [(str(shard.folder), shard.steps, shard.episodes) for shard in layout.shards]
        self.native = _core.Store(
            layout.observation_dim,
            layout.action_dim,
            len(layout.tasks),
            shards,
            in_memory,
            native_columns(layout.columns),
            native_columns(layout.episode_columns),
        )
        self._labels: dict[str, _core.LabelColumn] = {}
        self._declared = DeclaredColumns(layout, self.native)
        # Columns on devices by (device, name), shared by all samplers of this store.
        self.resident_columns: dict[tuple[str, str], Tensor] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        in_memory: bool = False,
        labels: str | os.PathLike[str] | None = None,
    ) -> EpisodeStore:
        """Open a store. Sizes, headers, manifests and the episode table are all checked; array data is not
        read, unless ``in_memory``.

        ``in_memory`` copies all columns into this process's memory, on huge pages where the system has them.
        Batches of stores of gigabytes are then drawn about as fast as those of small ones, and changes of the
        files no longer matter.

        ``labels``: a folder where label columns are looked for before those that lie beside the data, and written: for
        data that cannot be written to, or labels that belong to a run.

        Raises StoreError that names the file, what was expected and what was found, and InputError if less
        memory is available than ``in_memory`` needs.
        """
        with storage_errors(Path(path)):
            layout = StoreLayout.read(Path(path))
            if in_memory:
                check_memory(layout)
            return cls(layout, in_memory, None if labels is None else Path(labels))

    def __reduce__(self) -> tuple[Any, ...]:
        reopen = partial(EpisodeStore.open, in_memory=self._in_memory, labels=self.labels_folder)
        return reopen, (self.path,)

    def __repr__(self) -> str:
        return (
            f"EpisodeStore({str(self.path)!r}: {self.num_episodes} episodes, {self.num_steps} steps, "
            f"{len(self.tasks)} tasks)"
        )

    def __len__(self) -> int:
        return self.num_episodes

    @property
    def path(self) -> Path:
        """The folder."""
        return self._layout.path

    @property
    def shard_folders(self) -> list[Path]:
        """The folders that hold the columns, in the order of the episodes."""
        return [shard.folder for shard in self._layout.shards]

    @property
    def shard_notes(self) -> list[dict[str, Any]]:
        """What the writers noted with each shard."""
        return [dict(shard.note) for shard in self._layout.shards]

    @property
    def unfinished(self) -> bool:
        """Whether a program that was writing the store has yet to say that everything is there."""
        return self._layout.unfinished

    @property
    def tasks(self) -> list[str]:
        """Task names; a task index points into them."""
        return list(self._layout.tasks)

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Where the data came from, as its writers said, each once."""
        return list(self._layout.provenance)

    @property
    def action_repeat(self) -> int:
        """For how many steps of its environment an action was repeated, with the rewards added up. Mostly 1.

        Raises StoreError if the provenance says different numbers, or something else.
        """
        return self._layout.action_repeat()

    @cached_property
    def fingerprint(self) -> str:
        """What the episodes are known by, 16 hex digits: a digest of the columns' checksums and the task names."""
        return self._layout.fingerprint()

    @property
    def observation_dim(self) -> int:
        """Size of one observation."""
        return self._layout.observation_dim

    @property
    def action_dim(self) -> int:
        """Size of one action."""
        return self._layout.action_dim

    @property
    def num_steps(self) -> int:
        """Steps (transitions) of all episodes."""
        return self.native.num_steps

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return self.native.num_episodes

    @property
    def actions_outside(self) -> int | None:
        """Steps whose action lies outside [-1, 1] in some dimension; None for stores that do not say."""
        counts = [shard.actions_outside for shard in self._layout.shards]
        return None if None in counts else sum(count for count in counts if count)

    @cached_property
    def episode_task(self) -> Int64Array:
        """Task index of each episode, int64 [E]."""
        return self.native.episode_task()

    @cached_property
    def episode_length(self) -> Int64Array:
        """Steps T of each episode, int64 [E]."""
        return self.native.episode_length()

    @cached_property
    def episode_start(self) -> Int64Array:
        """The first step of each episode among all steps, int64 [E]: labels are indexed so."""
        return self.native.episode_start()

    @cached_property
    def episode_return(self) -> npt.NDArray[np.float64]:
        """Undiscounted return of each episode, float64 [E]."""
        return self.native.episode_return()

    @cached_property
    def statistics(self) -> Statistics:
        """Float64 moments of the T states (not the final one) of all episodes of all tasks."""
        return self._layout.statistics()

    def normalization(self) -> Normalization:
        """Mean and std (+ 1e-6) of :attr:`statistics` in float32; constant dimensions, and those that vary by rounding
        alone (:attr:`Statistics.constant`, listed by :meth:`info`), are only centred.

        Raises StoreError if the store is empty.
        """
        if self.num_steps == 0:
            raise StoreError(f"{self.path}: the store has no episodes to take statistics of")
        return self.statistics.normalization()

    @property
    def columns(self) -> dict[str, np.dtype[Any]]:
        """The declared columns of the steps, by name; the shape of a step's entry is part of the dtype."""
        return dict(self._layout.columns)

    @property
    def episode_columns(self) -> dict[str, np.dtype[Any]]:
        """The declared columns of the episodes, by name, as :attr:`columns`."""
        return dict(self._layout.episode_columns)

    def column(self, name: str) -> list[Array]:
        """A declared column of the steps: a read-only, memory-mapped array [steps, ...] for each shard.

        Raises InputError for a column that is not declared.
        """
        return self._declared.of_steps(name)

    def episode_column(self, name: str) -> Array:
        """A declared column of the episodes [E, ...].

        Raises InputError for a column that is not declared and StoreError for text that no writer lets in.
        """
        return self._declared.of_episodes(name)

    def task_index(self, task: str) -> int:
        """The index of a task name. InputError names the nearest one if there is no such task."""
        if task in self._layout.tasks:
            return self._layout.tasks.index(task)
        raise InputError(
            f"task: expected one of the {len(self.tasks)} tasks of {self.path}, got {task!r:.80}; "
            f"{closest(str(task), self._layout.tasks)}"
        )

    def episode(self, index: int) -> Episode:
        """One episode, as views into the mapped columns. IndexError outside [0, num_episodes)."""
        position = operator.index(index)
        observations, actions, rewards, returns_to_go, success = self.native.episode(position)
        return Episode(
            observations,
            actions,
            rewards,
            returns_to_go,
            None if success[0] < 0 else success.astype(np.bool_),
            self._layout.tasks[self.episode_task[position]],
            float(self.episode_return[position]),
            *self._declared.of_episode(position),
        )

    def best_episodes(self, task: str, count: int, episodes: npt.ArrayLike | None = None) -> list[int]:
        """Indices of a task's ``count`` episodes of highest return (fewer if there are fewer), best first.

        Equal returns are ordered by index. ``episodes`` restricts the choice to some indices.
        """
        index = self.task_index(task)
        candidates = np.flatnonzero(self.episode_task == index)
        if episodes is not None:
            candidates = np.intersect1d(candidates, np.asarray(episodes))
        order = np.argsort(-self.episode_return[candidates], kind="stable")
        return [int(i) for i in candidates[order[:count]]]

    @property
    def labels_root(self) -> Path:
        """The folder that label columns are written to."""
        return self._label_roots[0]

    def _label_folder(self, name: str) -> Path:
        """The folder of a label column. StoreError if there is none of that name."""
        for root in self._label_roots:
            folder = label_folder(root, name)
            if folder.is_dir():
                return folder
        known = ", ".join(map(repr, self.label_names)) or "none"
        raise StoreError(f"{self.path}: there are no labels {name!r} (there are: {known})")

    @property
    def label_names(self) -> list[str]:
        """Names of the label columns, beside the data and in the folder that :meth:`open` was given."""
        return sorted({name for root in self._label_roots for name in label_names(root)})

    def write_labels(
        self,
        name: str,
        labels: npt.ArrayLike | Iterable[npt.ArrayLike],
        num_classes: int,
        threads: int = 1,
    ) -> None:
        """Keep one class per step in :attr:`labels_root`, with an index of where each class occurs.

        ``labels``: integers in [0, num_classes) as one array [num_steps] or an iterable of arrays that
        follow one another, in the order of the episodes. Labels of that name are replaced.

        Raises InputError for wrong labels (nothing changes) or StoreError if they cannot be written.
        """
        root = self.labels_root
        write_labels(root, self.data_checksum, self.num_steps, name, labels, int(num_classes), threads)
        self._labels.pop(name, None)

    @property
    def takes_labels(self) -> bool:
        """Whether this process may write into :attr:`labels_root`, or make it."""
        return may_hold_labels(self.labels_root)

    def check_labels_writable(self) -> None:
        """Raise StoreError, before anything is computed, if labels cannot be written."""
        check_labels_writable(self.labels_root)

    def label_blocks(self, name: str, num_classes: int) -> LabelBlocks:
        """Labels to be found block by block, by several processes or over several attempts."""
        return LabelBlocks(self, name, num_classes)

    def labels(self, name: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The labels of every step, a read-only view [num_steps] of uint8, uint16 or uint32 (the least
        that fits).

        Raises StoreError if there are none of that name, or they are damaged or older than the data.
        """
        return self.label_column(name).labels()

    def num_classes(self, name: str) -> int:
        """The number of classes that the labels of a name were written with, empty ones included."""
        return int(self._label_manifest(name)["classes"])

    def label_column(self, name: str) -> _core.LabelColumn:
        """The mapped label column and class index, for the samplers."""
        if name not in self._labels:
            manifest = self._label_manifest(name)
            folder = str(self._label_folder(name))
            self._labels[name] = _core.LabelColumn(
                folder, self.num_steps, manifest["classes"], manifest["width"]
            )
        return self._labels[name]

    def _label_manifest(self, name: str) -> dict[str, Any]:
        with storage_errors(self.path):
            return read_label_manifest(self._label_folder(name), self.data_checksum, self.num_steps)

    @cached_property
    def data_checksum(self) -> str:
        """What label columns are held to: it changes when episodes are added."""
        return hashlib.sha256(" ".join(shard.checksum for shard in self._layout.shards).encode()).hexdigest()

    def info(self) -> dict[str, Any]:
        """What is in the store, as values that JSON can hold."""
        return store_info(self)

    @property
    def prompts(self) -> EpisodeStore | None:
        """The episodes that a conversion found in the source's files of prompts, a store in the folder ``prompts``.

        None if there are none. They are for programs that bring their own; training takes its prompts from this
        store's episodes. Raises StoreError if what is there cannot be opened.
        """
        folder = self.path / PROMPTS
        return EpisodeStore.open(folder) if os.path.lexists(folder) else None

    def shard_files(self) -> list[Path]:
        """The files of columns that lie in the shards, known or not."""
        return [file for folder in self.shard_folders for file in folder.glob("*.npy")]

    def label_files(self, name: str) -> list[Path]:
        """The files of columns that lie in the folder of the labels of that name, known or not."""
        return list(self._label_folder(name).glob("*.npy"))

    def shard_checksums(self) -> dict[Path, str]:
        """The files of columns that the shards' manifests list, with the SHA-256 of what follows their headers."""
        return self._layout.checksums()

    def label_checksums(self, name: str) -> dict[Path, str]:
        """As :meth:`shard_checksums`, of the labels of a name. Raises StoreError if their manifest is damaged."""
        folder, columns = self._label_folder(name), self._label_manifest(name)["columns"]
        return {folder / f"{part}.npy": str(entry["sha256"]) for part, entry in columns.items()}

    def verify(self, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Read everything and hold it to the checksums: the episodes, labels and :attr:`prompts`.

        ``progress(done, total)`` is called with bytes. Returns what was checked (``files``, ``bytes``);
        raises StoreError that names every file that is damaged, missing or foreign.
        """
        return verify(self, progress)
