"""Making Minari datasets of stores. Needs minari."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import EPISODE_ENDS
from goskill.data.convert.ends import last_flags
from goskill.data.convert.minari import import_minari, reason_of, refusals
from goskill.data.episode import Episode
from goskill.data.store import EpisodeStore
from goskill.data.store_files import storage_errors
from goskill.errors import InputError, StoreError, closest

_EPISODES_PER_BATCH = 64
# What HDF5 takes beside the numbers: chunks that are not full, and each episode's groups and indices.
_CHUNK_ALLOWANCE = 9 / 8
_EPISODE_OVERHEAD = 24 * 1024
_DATASET_OVERHEAD = 1 << 20
_GIVEN = ("dataset_id", "buffer", "observation_space", "action_space")  # what the store itself says
_TEXTS = ("algorithm_name", "code_permalink", "description")
_SETS = ("author", "author_email")  # of texts, or one text


def to_minari(store: EpisodeStore, dataset_id: str, task: str, **metadata: Any) -> Any:
    """Make a Minari dataset of one task's episodes, as Minari keeps its datasets on this machine, and
    return it.

    A few episodes are in memory at a time. Every episode ends by truncation, unless the store declares ``terminated``
    and says so; its other declared columns of steps go to infos of their names (zeros after the last step). Success
    goes to the info ``success`` (bool, False at the reset) of the episodes that it was recorded for.
    ``metadata`` goes to ``minari.create_dataset_from_buffers`` (author, description …).

    Raises InputError without minari, for an id that is malformed or taken, for a task without episodes, for
    metadata that Minari refuses and for a disk without room for the dataset; StoreError if the
    dataset cannot be written. Nothing is left of it then.
    """
    minari = import_minari()
    from gymnasium.spaces import Box

    numbers = np.flatnonzero(store.episode_task == store.task_index(task)).tolist()
    if not numbers:
        raise InputError(f"task: expected one that has episodes, got {task!r}")
    _check_metadata(metadata)
    batches = _batches(store, numbers)
    folder = _new_folder(dataset_id)
    _check_room(folder, _needed(store, numbers))
    namespaces = _new_namespaces(folder)
    try:
        dataset = minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            buffer=next(batches),
            observation_space=Box(-np.inf, np.inf, (store.observation_dim,), np.float32),
            action_space=Box(-np.inf, np.inf, (store.action_dim,), np.float32),
            **metadata,
        )
        for batch in batches:
            dataset.update_dataset_from_buffer(batch)
        return minari.MinariDataset(dataset.storage)
    except BaseException as error:
        _remove(folder, namespaces)
        reason = f"Minari dataset {dataset_id!r}: {reason_of(error)}"
        if isinstance(error, refusals()):
            raise InputError(reason) from error
        if isinstance(error, (OSError, RuntimeError)):  # HDF5 raises both
            raise StoreError(reason) from error
        raise


def _new_folder(dataset_id: str) -> Path:
    """Where Minari will keep a dataset. InputError for an id that is malformed or taken."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError) as error:  # a TypeError without a version
        raise InputError(
            f"dataset_id: expected a name such as 'group/name-v0', got {dataset_id!r:.80}"
        ) from error
    with storage_errors(Path(dataset_id)):
        folder = Path(get_dataset_path(dataset_id))
        if folder.exists():
            raise InputError(
                f"dataset_id: expected a new name or version, got {dataset_id!r}, which is in {folder}"
            )
    return folder


def _needed(store: EpisodeStore, numbers: list[int]) -> int:
    """About the most bytes that a dataset of those episodes takes on disk."""
    steps, states = int(store.episode_length[numbers].sum()), int((store.episode_length[numbers] + 1).sum())
    # Two flags, of ends and of time limits; success is counted as if all episodes had it.
    numeric = 4 * (states * store.observation_dim + steps * (store.action_dim + 1)) + 2 * steps + states
    numeric += states * sum(type_.itemsize for type_ in store.columns.values())
    return int(_CHUNK_ALLOWANCE * numeric) + _EPISODE_OVERHEAD * len(numbers) + _DATASET_OVERHEAD


def _check_room(folder: Path, needed: int) -> None:
    """Refuse a disk that is too full beforehand: HDF5 may crash when it cannot finish a file."""
    there = next(parent for parent in folder.parents if parent.exists())
    with storage_errors(there):
        free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{folder}: expected room for a dataset of about {needed:,} bytes, got {free:,} free bytes"
        )


def _check_metadata(metadata: dict[str, Any]) -> None:
    known = inspect.signature(import_minari().create_dataset_from_buffers).parameters
    for name, value in metadata.items():
        if name not in known or name in _GIVEN:
            names = [one for one in known if one not in _GIVEN]
            raise InputError(
                f"metadata: expected names that Minari knows, got {name!r} ({closest(name, names)})"
            )
        texts = list(value) if name in _SETS and isinstance(value, set) else [value]
        if name in (*_TEXTS, *_SETS) and not all(text is None or isinstance(text, str) for text in texts):
            wanted = "a string or a set of strings" if name in _SETS else "a string"
            raise InputError(f"{name}: expected {wanted}, got {value!r:.80}")


def _new_namespaces(folder: Path) -> list[Path]:
    """The folders above a dataset's that Minari will make for its namespace, the deepest first."""
    return [parent for parent in folder.parents if not parent.exists()]


def _remove(folder: Path, namespaces: list[Path]) -> None:
    """Remove a dataset and its new namespaces, unless another dataset has come into them."""
    from minari.namespace import NAMESPACE_METADATA_FILENAME

    shutil.rmtree(folder, ignore_errors=True)
    for namespace in namespaces:
        with contextlib.suppress(OSError):
            if os.listdir(namespace) == [NAMESPACE_METADATA_FILENAME]:
                (namespace / NAMESPACE_METADATA_FILENAME).unlink()
            namespace.rmdir()


def _batches(store: EpisodeStore, numbers: list[int]) -> Iterator[list[Any]]:
    """A few episodes at a time as Minari takes them, so that no more are in memory."""
    for begin in range(0, len(numbers), _EPISODES_PER_BATCH):
        batch = numbers[begin : begin + _EPISODES_PER_BATCH]
        yield [_buffer(begin + i, store.episode(number)) for i, number in enumerate(batch)]


def _buffer(index: int, episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    length = len(episode.rewards)
    last = np.arange(length) == length - 1
    terminated, truncated = last_flags(episode)
    return EpisodeBuffer(
        id=index,
        observations=np.array(episode.observations),
        actions=np.array(episode.actions),
        rewards=np.array(episode.rewards),
        terminations=last & terminated,
        truncations=last & truncated,
        infos=_infos(episode),
    )


def _infos(episode: Episode) -> dict[str, npt.NDArray[Any]] | None:
    infos: dict[str, npt.NDArray[Any]] = {
        name: np.concatenate([values, np.zeros_like(values[:1])])
        for name, values in episode.columns.items()
        if name not in EPISODE_ENDS
    }
    if episode.success is not None:
        infos["success"] = np.concatenate([[False], episode.success])
    return infos or None
