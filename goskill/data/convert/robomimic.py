"""robomimic's HDF5 files: a group for each demonstration. Needs h5py."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import Columns, checked_columns
from goskill.data.convert.copying import Member, Part, Source, column_name, column_names, copy_source
from goskill.data.convert.hdf5 import import_h5py
from goskill.data.convert.hdf5_columns import check_episode, open_hdf5, own, own_datasets
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, columns_of, content_of, joined
from goskill.data.layout import is_task_name
from goskill.errors import StoreError
from goskill.files import parse_json

_DEMONSTRATIONS_PER_PART = 8
_DEMONSTRATION = re.compile(r"demo_([0-9]{1,9})")
# What robomimic's own low-dimensional agents observe: this of every arm, and the object.
_ARM = ("eef_pos", "eef_quat", "gripper_qpos")
_SECOND_ARM = "obs/robot1_eef_pos"  # that transport has


def from_robomimic(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    task: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    observation: str | Sequence[str] | None = None,
    columns: Sequence[str] = (),
    member: Member | None = None,
) -> ConversionReport:
    """Convert a file in robomimic's layout (``data/demo_<k>/{obs/*,next_obs/*,actions,rewards,dones}``) into a store,
    going on where an earlier call was interrupted.

    A demonstration is an episode, in the order of their numbers. ``observation``: the keys of ``obs`` whose arrays
    side by side are the observations, by default those of robomimic's low-dimensional agents (position, orientation
    and gripper of one arm or both, and ``object``). ``columns`` names further datasets of a demonstration
    (``obs/agentview_image``, ``states``) that become declared columns of the store (``obs_agentview_image``).
    ``dones`` always do, as they are: a file may mark success with them, ends, or both. Where the next observation is
    not the next row the episode is cut; without ``next_obs`` its last step is dropped.

    ``task`` names the one task, by default the environment that the file says, or the file. ``workers``: processes
    that read, 0 for all cores. ``progress`` is called with (parts done, parts): a part is a few demonstrations.
    ``member``: this is one of several sources.

    Returns the report, also written to ``conversion.json``. Raises InputError without h5py, StoreError that names
    the file and the demonstration, or WorkerDied when a process is killed (calling again goes on).
    """
    import_h5py()
    column_names(columns)  # raises
    file = Path(source)
    with _opened(file) as data:
        names = _demonstrations(file, data)
        environment = _environment(file, data)
        keys = _keys(observation) or _agents_keys(_datasets(f"{file}: {names[0]}", data, names[0]))
        declared = _declared(f"{file}: {names[0]}", data, names[0], tuple(columns))
    name = task or environment or file.stem
    if not is_task_name(name):
        raise StoreError(f"{file}: expected a task of 1 to 200 printable characters, got {name!r:.80}")
    groups = [names[i : i + _DEMONSTRATIONS_PER_PART] for i in range(0, len(names), _DEMONSTRATIONS_PER_PART)]
    demonstrations = Source(
        file,
        "robomimic",
        {"observation": list(keys)},
        [Part((file, group), (file,), name) for group in groups],
        functools.partial(read_demonstrations, keys=keys, further=tuple(columns)),
        columns=declared,
        member=member,
    )
    return copy_source(demonstrations, path, workers, progress)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The group ``data`` of a file. What is wrong with it becomes a StoreError that names the file."""
    try:
        with open_hdf5(path) as file:
            data = own(f"{path}: 'data'", file, "data")
            if not hasattr(data, "keys"):
                raise StoreError(f"{path}: expected a group 'data', got {sorted(file)!r:.200}")
            yield data
    except StoreError:
        raise
    except (OSError, KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: is not an HDF5 file in robomimic's layout: {reason}") from error


def _demonstrations(path: Path, data: Any) -> list[str]:
    names = [name for name in data if _DEMONSTRATION.fullmatch(name)]
    if not names:
        raise StoreError(f"{path}: expected groups data/demo_0 and so on, got {sorted(data)!r:.200}")
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def _environment(path: Path, data: Any) -> str | None:
    """The name of the environment that demonstrations were given in, if the file says it."""
    text = data.attrs.get("env_args")
    if not isinstance(text, str):
        return None
    try:
        facts = parse_json(text)
    except ValueError as error:
        raise StoreError(f"{path}: data: expected JSON in the attribute env_args") from error
    name = facts.get("env_name") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None


def _datasets(where: str, data: Any, name: str) -> dict[str, Any]:
    """The datasets of a demonstration by their paths."""
    found = own_datasets(where, data, name)
    return {path.removeprefix(f"{name}/"): dataset for path, dataset in found.items()}


def _keys(observation: str | Sequence[str] | None) -> tuple[str, ...]:
    return (observation,) if isinstance(observation, str) else tuple(observation or ())


def _agents_keys(datasets: dict[str, Any]) -> tuple[str, ...]:
    """What robomimic's agents observe of a demonstration."""
    arms = ("robot0", "robot1") if _SECOND_ARM in datasets else ("robot0",)
    return (*(f"{arm}_{part}" for arm in arms for part in _ARM), "object")


def _chosen(where: str, datasets: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        if name not in datasets:
            raise StoreError(
                f"{where}: expected the dataset {name!r:.80}, got {', '.join(sorted(datasets)):.300}"
            )
        if not datasets[name].shape or datasets[name].dtype.kind not in "biuf":
            raise StoreError(f"{where}: {name}: expected rows of numbers, got {datasets[name]!r:.80}")
    return {name: datasets[name] for name in names}


def _kept(datasets: dict[str, Any], further: tuple[str, ...]) -> list[str]:
    """What becomes declared columns."""
    return [*(["dones"] if "dones" in datasets else []), *further]


def _declared(where: str, data: Any, name: str, further: tuple[str, ...]) -> Columns:
    """The columns of the store, of the types that the first demonstration has."""
    datasets = _datasets(where, data, name)
    kept = _chosen(where, datasets, _kept(datasets, further))
    names = column_names(kept)
    types = {names[name]: np.dtype((rows.dtype, rows.shape[1:])) for name, rows in kept.items()}
    return checked_columns("columns", types, texts=False)


def read_demonstrations(
    key: tuple[Path, list[str]], keys: tuple[str, ...], further: tuple[str, ...]
) -> Content:
    """Some demonstrations of a file. StoreError names the file and the demonstration."""
    path, names = key
    with _opened(path) as data:
        return joined([_demonstration(f"{path}: {name}", data, name, keys, further) for name in names], [])


def _demonstration(
    where: str, data: Any, name: str, keys: tuple[str, ...], further: tuple[str, ...]
) -> Content:
    datasets = _datasets(where, data, name)
    kinds = [kind for kind in ("obs", "next_obs") if any(path.startswith(f"{kind}/") for path in datasets)]
    kept = _kept(datasets, further)
    names = [*(f"{kind}/{key}" for kind in kinds or ["obs"] for key in keys), "actions", "rewards", *kept]
    chosen = _chosen(where, datasets, names)
    check_episode(where, chosen)
    arrays = {path: np.asarray(dataset[()]) for path, dataset in chosen.items()}
    rows = {"observations": _side_by_side(where, arrays, "obs", keys)}
    if "next_obs" in kinds:
        rows["next_observations"] = _side_by_side(where, arrays, "next_obs", keys)
    columns = columns_of(where, rows | {kind: arrays[kind] for kind in ("actions", "rewards")})
    steps = len(columns["rewards"])
    for path in kept:
        if len(arrays[path]) != steps:
            raise StoreError(f"{where}: {path}: expected {steps} rows, got {len(arrays[path])}")
    declared = {column_name(path): arrays[path] for path in kept}
    return content_of(where, columns, np.zeros(steps, bool), declared=declared)


def _side_by_side(
    where: str, arrays: dict[str, npt.NDArray[Any]], kind: str, keys: tuple[str, ...]
) -> npt.NDArray[Any]:
    rows = [arrays[f"{kind}/{key}"] for key in keys]
    if len({len(values) for values in rows}) != 1:
        raise StoreError(
            f"{where}: {kind}: expected as many rows of each key, got {[len(one) for one in rows]}"
        )
    return np.concatenate([values.reshape(len(values), -1) for values in rows], axis=1)
