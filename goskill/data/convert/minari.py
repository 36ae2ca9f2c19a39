"""Minari datasets, both ways. Needs minari."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import Columns, checked_columns
from goskill.data.convert.copying import Part, Source, column_name, column_names, copy_source
from goskill.data.convert.ends import flags_of, kinds_of
from goskill.data.convert.fingerprints import stamp
from goskill.data.convert.hdf5_columns import check_episode, open_hdf5, own_datasets
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, content_of, joined
from goskill.data.store_files import open_regular, read_whole
from goskill.errors import InputError, StoreError, optional

_EPISODES_PER_PART = 8
_MAIN_FILE, _METADATA_FILE = "main_data.hdf5", "metadata.json"
_METADATA_LIMIT = 64 * 1024 * 1024
_MOST_EPISODES = 1 << 22


def import_minari() -> Any:
    """minari. Raises InputError without it."""
    return optional("minari", "Minari datasets need", "'minari[hdf5]'")


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what Minari raises over a dataset that is damaged into a StoreError that says where."""
    try:
        yield
    except (InputError, StoreError):
        raise
    except refusals(OSError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise StoreError(f"{where}: is not what Minari writes: {reason_of(error)}") from error


def refusals(*further: type[Exception]) -> tuple[type[Exception], ...]:
    """What Minari raises for what it does not take, and further errors."""
    from gymnasium.error import Error

    return ValueError, TypeError, AssertionError, ImportError, Error, *further


def reason_of(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _opened(folder: str) -> Any:
    return _dataset(folder, stamp(Path(folder) / _METADATA_FILE))


@functools.lru_cache(1)
def _dataset(folder: str, known: tuple[int, ...]) -> Any:
    return import_minari().MinariDataset(folder)


@dataclass(frozen=True)
class Choice:
    """What of an episode becomes observations, and which other arrays become declared columns.

    ``observation``: keys of a Dict, in order; all of them in order of their names if it is empty; None for arrays.
    """

    observation: tuple[str, ...] | None
    columns: tuple[str, ...]


def read_episodes(key: tuple[str, str, list[int]], choice: Choice) -> Content:
    """Some episodes of the dataset of a name in a folder. StoreError names the episode."""
    name, folder, indices = key
    return joined([_read(f"{name}: episode {index}", folder, index, choice) for index in indices], [])


def _read(where: str, folder: str, index: int, choice: Choice) -> Content:
    episode = _load(where, folder, index)
    with _reading(where):
        return _content(where, episode, choice)


def _load(where: str, folder: str, index: int) -> Any:
    with _reading(where):
        _check_episode(where, folder, index)
        (episode,) = _opened(folder).iterate_episodes([index])
        return episode


def _check_episode(where: str, folder: str, index: int) -> None:
    """Refuse an episode that leads to other files, is too large, or is no file: Minari would read it all."""
    main = Path(folder) / _MAIN_FILE
    if main.exists():
        with open_hdf5(main) as file:
            check_episode(where, own_datasets(where, file, f"episode_{index}"))
    for file in [] if main.exists() else _files_of_episode(folder, index):
        open_regular(file).close()


def _content(where: str, episode: Any, choice: Choice) -> Content:
    """The episode, cut where it says that it ended although it goes on."""
    observations = _observations(where, episode.observations, choice.observation)
    rewards, actions = np.asarray(episode.rewards).reshape(-1), _flat(where, "actions", episode.actions)
    steps = len(rewards)
    flags = {
        name: flags_of(where, {name: np.asarray(getattr(episode, name)).reshape(-1)})[name]
        for name in ("terminations", "truncations")
    }
    for name, rows, count in (
        ("observations", observations, steps + 1),
        ("actions", actions, steps),
        *((name, flag, steps) for name, flag in flags.items()),
    ):
        if len(rows) != count:
            raise StoreError(f"{where}: {name}: expected {count} rows for {steps} rewards, got {len(rows)}")
    if not steps:
        raise StoreError(f"{where}: rewards: expected at least one step, got an empty episode")
    ends = flags["terminations"] | flags["truncations"]
    columns = {"observations": observations[:-1], "next_observations": observations[1:], "actions": actions}
    success = _success(where, episode.infos, steps)
    found = content_of(
        where,
        columns | {"rewards": rewards},
        ends,
        success,
        kinds_of(flags) | _further(where, episode, choice),
    )
    inside = int(ends[:-1].sum())
    return dataclasses.replace(found, split=[f"{where}: {inside} times"]) if inside else found


def _flat(where: str, kind: str, values: Any) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return values
    found = f"shape {list(values.shape)}" if isinstance(values, np.ndarray) else _described(values)
    hint = ": choose some with observation=, or 'all'" if isinstance(values, dict) else ""
    raise StoreError(f"{where}: expected flat {kind}, got {found}{hint}")


def _described(values: Any) -> str:
    return f"a dict of {', '.join(sorted(values))}" if isinstance(values, dict) else type(values).__name__


def _observations(where: str, values: Any, chosen: tuple[str, ...] | None) -> npt.NDArray[Any]:
    """Observations [T + 1, D]: an array, or the chosen arrays of a dict side by side."""
    if chosen is None:
        return _flat(where, "observations", values)
    if not isinstance(values, dict):
        raise StoreError(f"{where}: observation: expected a dict to choose from, got {type(values).__name__}")
    leaves = _leaves(values)
    rows = []
    for key in chosen or sorted(values):
        names = sorted(name for name in leaves if name == key or name.startswith(f"{key}/"))
        if not names:
            raise StoreError(f"{where}: observation: expected one of {', '.join(leaves)}, got {key!r:.80}")
        rows += [_numbers(where, name, leaves[name]) for name in names]
    if len({len(values) for values in rows}) > 1:
        raise StoreError(
            f"{where}: observations: expected as many rows of each, got {[len(one) for one in rows]}"
        )
    return np.concatenate([values.reshape(len(values), -1) for values in rows], axis=1)


def _leaves(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """What lies in a dict and those in it, by paths."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{above}{key}/") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _numbers(where: str, name: str, values: Any) -> npt.NDArray[Any]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim < 1:
        raise StoreError(f"{where}: {name}: expected an array of numbers, got {type(values).__name__}")
    return values


def _further(where: str, episode: Any, choice: Choice) -> dict[str, npt.NDArray[Any]]:
    """The chosen columns, of keys of observations or infos: what is there before each step."""
    if not choice.columns:
        return {}
    of_observations = _leaves(episode.observations) if isinstance(episode.observations, dict) else {}
    leaves = of_observations | _leaves({"infos": episode.infos or {}})
    steps, columns = len(episode.rewards), {}
    for name in choice.columns:
        if name not in leaves:
            raise StoreError(f"{where}: columns: expected one of {', '.join(leaves)}, got {name!r:.80}")
        values = _numbers(where, name, leaves[name])
        if len(values) not in (steps, steps + 1):
            raise StoreError(f"{where}: {name}: expected {steps} or {steps + 1} rows, got {len(values)}")
        columns[column_name(name)] = values[:steps]
    return columns


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


def _contents(dataset: str | Any) -> tuple[str, str, list[int]]:
    """Name, folder and episode numbers of a dataset, or of that of an id. StoreError if it is damaged."""
    minari = import_minari()
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

    metadata = Path(get_dataset_path(dataset_id)) / "data" / _METADATA_FILE
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
    observation: str | Sequence[str] | None = None,
    columns: Sequence[str] = (),
) -> ConversionReport:
    """Convert a Minari dataset (its id, if it is on this machine, or the object) into a store, going on where an
    earlier call was interrupted.

    ``observation``: for Dict observations the key, or keys, whose arrays side by side are the observations of the
    store (``desired_goal/microwave`` within a Dict of Dicts); "all" takes all of them in order of their names.
    ``columns`` names further keys, or infos (``infos/qpos``), that become declared columns of the store, as
    ``terminated`` and ``truncated`` always do: what they are before each step. Where an episode says that it ended
    and goes on, it is cut.

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
    column_names(columns)  # raises
    name, folder, indices = _contents(dataset)
    if not indices:
        raise StoreError(f"{name}: holds no episodes")
    parts = [
        _part(task or name, (name, folder, indices[i : i + _EPISODES_PER_PART]))
        for i in range(0, len(indices), _EPISODES_PER_PART)
    ]
    choice = Choice(_keys(observation), tuple(columns))
    episodes = Source(
        Path(folder),
        "minari",
        {} if choice.observation is None else {"observation": observation},
        parts,
        functools.partial(read_episodes, choice=choice),
        name=name,
        columns=_declared(name, folder, indices[0], choice),
    )
    return copy_source(episodes, path, workers, progress)


def _keys(observation: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if observation is None:
        return None
    return (
        () if observation == "all" else (observation,) if isinstance(observation, str) else tuple(observation)
    )


def _declared(name: str, folder: str, index: int, choice: Choice) -> Columns:
    """The columns of the store, of the types that the first episode has."""
    where = f"{name}: episode {index}"
    found = _further(where, _load(where, folder, index), choice) if choice.columns else {}
    types = {column: np.dtype((rows.dtype, rows.shape[1:])) for column, rows in found.items()}
    return checked_columns("columns", {"terminated": "?", "truncated": "?", **types}, texts=False)


def _part(task: str, key: tuple[str, str, list[int]]) -> Part:
    _, folder, indices = key
    main = Path(folder) / _MAIN_FILE
    if main.exists():
        return Part(key, (main,), task)
    return Part(key, tuple(file for index in indices for file in _files_of_episode(folder, index)), task)


def _files_of_episode(folder: str, index: int) -> list[Path]:
    """The files of an episode in Minari's formats of a folder for each."""
    return sorted(file for file in (Path(folder) / str(index)).rglob("*") if not file.is_dir())
