"""Minari datasets, both ways. Needs minari."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.convert.copying import Part, Source, copy_source
from goskill.data.convert.hdf5_columns import check_episode, open_hdf5
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, SourceEpisode
from goskill.data.episode import Episode
from goskill.data.files import open_regular, read_whole, storage_errors
from goskill.data.store import EpisodeStore
from goskill.errors import InputError, StoreError, closest

_EPISODES_PER_PART = 8
_EPISODES_PER_BATCH = 64
# What HDF5 takes beside the numbers: chunks that are not full, and each episode's groups and indices.
_CHUNK_ALLOWANCE = 9 / 8
_EPISODE_OVERHEAD = 24 * 1024
_DATASET_OVERHEAD = 1 << 20
_MAIN_FILE = "main_data.hdf5"
_METADATA_LIMIT = 64 * 1024 * 1024
_MOST_EPISODES = 1 << 22
_GIVEN = ("dataset_id", "buffer", "observation_space", "action_space")  # what the store itself says
_TEXTS = ("algorithm_name", "code_permalink", "description")
_SETS = ("author", "author_email")  # of texts, or one text


def _minari() -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise InputError("Minari datasets need the package minari: pip install 'minari[hdf5]'") from error
    return minari  # type: ignore[no-any-return]


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what Minari raises over a dataset that is damaged into a StoreError that says where."""
    try:
        yield
    except (InputError, StoreError):
        raise
    except _refusals(OSError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise StoreError(f"{where}: is not what Minari writes: {_reason(error)}") from error


def _refusals(*further: type[Exception]) -> tuple[type[Exception], ...]:
    """What Minari raises for what it does not take, and further errors."""
    from gymnasium.error import Error

    return ValueError, TypeError, AssertionError, ImportError, Error, *further


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


@functools.lru_cache(1)
def _opened(folder: str) -> Any:
    return _minari().MinariDataset(folder)


def read_episodes(key: tuple[str, str, list[int]]) -> Content:
    """Some episodes of the dataset of a name in a folder. StoreError names the episode."""
    name, folder, indices = key
    return Content([_read(f"{name}: episode {index}", folder, index) for index in indices])


def _read(where: str, folder: str, index: int) -> SourceEpisode:
    with _reading(where):
        _check_episode(where, folder, index)
        (episode,) = _opened(folder).iterate_episodes([index])
        return _episode(where, episode)


def _check_episode(where: str, folder: str, index: int) -> None:
    """Refuse an episode that leads to other files, is too large, or is no file: Minari would read it all."""
    main = Path(folder) / _MAIN_FILE
    if main.exists():
        with open_hdf5(main) as file:
            check_episode(where, file, f"episode_{index}")
    for file in [] if main.exists() else _files_of_episode(folder, index):
        open_regular(file).close()


def _episode(where: str, episode: Any) -> SourceEpisode:
    for kind in ("observations", "actions"):
        values = getattr(episode, kind)
        if not isinstance(values, np.ndarray) or values.ndim != 2:
            found = f"shape {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
            raise StoreError(f"{where}: expected flat {kind}, got {found}")
    rewards = np.asarray(episode.rewards)
    success = _success(where, episode.infos, len(rewards))
    return SourceEpisode.of(where, episode.observations, episode.actions, rewards, success)


def _success(where: str, infos: Any, steps: int) -> npt.NDArray[Any] | None:
    """What the info ``success`` says after each step. Infos begin with that of the reset, if they have it."""
    if not isinstance(infos, dict) or "success" not in infos:
        return None
    values = np.asarray(infos["success"])
    if values.dtype.kind not in "biuf" or values.shape[:1] not in ((steps,), (steps + 1,)):
        found = f"dtype {values.dtype} and shape {list(values.shape)}"
    elif values.size != len(values):
        found = f"shape {list(values.shape)}"
    else:
        return values.reshape(-1)[-steps:]
    raise StoreError(f"{where}: infos/success: expected {steps} or {steps + 1} numbers, got {found}")


def _infos(success: npt.NDArray[np.bool_] | None) -> dict[str, npt.NDArray[np.bool_]] | None:
    return None if success is None else {"success": np.concatenate([[False], success])}


def _contents(dataset: str | Any) -> tuple[str, str, list[int]]:
    """Name, folder and episode numbers of a dataset, or of that of an id. StoreError if it is damaged."""
    minari = _minari()
    if not isinstance(dataset, (str, minari.MinariDataset)):
        raise InputError(f"dataset: expected a Minari dataset or its id, got {dataset!r:.80}")
    where = f"Minari dataset {dataset!r}" if isinstance(dataset, str) else "Minari dataset"
    with _reading(where):
        found = _loaded(minari, where, dataset) if isinstance(dataset, str) else dataset
        indices = [int(index) for index in found.episode_indices]
        return str(found.spec.dataset_id), str(found.storage.data_path), indices


def _loaded(minari: ModuleType, where: str, dataset_id: str) -> Any:
    """The dataset of an id, unless Minari would have to make its environment, which may be any code, for its spaces."""
    from minari.storage import get_dataset_path

    metadata = Path(get_dataset_path(dataset_id)) / "data" / "metadata.json"
    if metadata.exists():
        spaces = json.loads(read_whole(metadata, _METADATA_LIMIT, "metadata"))
        for name in ("observation_space", "action_space"):
            if not isinstance(spaces.get(name), str):
                raise StoreError(
                    f"{where}: expected metadata with its {name}: Minari would make the environment that the metadata "
                    "name to find it; pass minari.load_dataset(...) itself if you trust that"
                )
        episodes = spaces.get("total_episodes")  # Minari numbers them all
        if not isinstance(episodes, int) or not 0 <= episodes <= _MOST_EPISODES:
            raise StoreError(
                f"{where}: expected metadata with its total_episodes, at most {_MOST_EPISODES:,}, got {episodes!r:.80}"
            )
    return minari.load_dataset(dataset_id)


def from_minari(
    dataset: str | Any,
    path: str | os.PathLike[str],
    task: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a Minari dataset (its id, if it is on this machine, or the object) of flat arrays into a store, going
    on where an earlier call was interrupted.

    The metadata of an id must have its spaces: Minari makes the environment that they name otherwise, which may run
    any code.

    ``task`` names the one task, by default as the dataset. An episode's last observation is kept. Success is read
    from the info ``success`` where it was recorded: a value for every step, with or without one for the reset.
    ``workers``: processes that read, 0 for all cores. ``progress`` is called with (parts done, parts): a part is a
    few episodes.

    Returns the report, also written to ``conversion.json``. Raises InputError without minari and for what is neither
    id nor dataset, StoreError that names the dataset and the episode (damaged, or kept in other files), or WorkerDied
    when a process is killed (calling again goes on).
    """
    name, folder, indices = _contents(dataset)
    if not indices:
        raise StoreError(f"{name}: holds no episodes")
    parts = [
        _part(task or name, (name, folder, indices[i : i + _EPISODES_PER_PART]))
        for i in range(0, len(indices), _EPISODES_PER_PART)
    ]
    episodes = Source(Path(folder), "minari", {"source": name}, parts, read_episodes, name=name)
    _, report = copy_source(episodes, path, workers, progress)
    report.write(Path(path))
    return report


def _part(task: str, key: tuple[str, str, list[int]]) -> Part:
    _, folder, indices = key
    main = Path(folder) / _MAIN_FILE
    if main.exists():
        return Part(task, key, (main,))
    return Part(task, key, tuple(file for index in indices for file in _files_of_episode(folder, index)))


def _files_of_episode(folder: str, index: int) -> list[Path]:
    """The files of an episode in Minari's formats of a folder for each."""
    return sorted(file for file in (Path(folder) / str(index)).rglob("*") if not file.is_dir())


def to_minari(store: EpisodeStore, dataset_id: str, task: str, **metadata: Any) -> Any:
    """Make a Minari dataset of one task's episodes, as Minari keeps its datasets on this machine, and
    return it.

    A few episodes are in memory at a time. Every episode ends by truncation: the store does not tell ends from time
    limits. Success goes to the info ``success`` (bool, False at the reset) of the episodes that it was recorded for.
    ``metadata`` goes to ``minari.create_dataset_from_buffers`` (author, description …).

    Raises InputError without minari, for an id that is malformed or taken, for a task without episodes, for
    metadata that Minari refuses and for a disk without room for the dataset; StoreError if the
    dataset cannot be written. Nothing is left of it then.
    """
    minari = _minari()
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
        reason = f"Minari dataset {dataset_id!r}: {_reason(error)}"
        if isinstance(error, _refusals()):
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
    known = inspect.signature(_minari().create_dataset_from_buffers).parameters
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
    return EpisodeBuffer(
        id=index,
        observations=np.array(episode.observations),
        actions=np.array(episode.actions),
        rewards=np.array(episode.rewards),
        terminations=np.zeros(length, bool),
        truncations=np.arange(length) == length - 1,
        infos=_infos(episode.success),
    )
