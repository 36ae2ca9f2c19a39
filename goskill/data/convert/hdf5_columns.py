"""The columns of an HDF5 file in D4RL's layout, checked before anything is made of them: the file is not trusted."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from goskill.data.convert.ends import FLAGS, Ends, every
from goskill.data.store_files import open_regular
from goskill.errors import StoreError

Opened = TypeVar("Opened")
NUMBERS = ("observations", "actions", "rewards", "next_observations")
SUCCESS = "infos/success"
_OPTIONAL = ("next_observations", *FLAGS, SUCCESS)
_MOST_COMPRESSED = 1032  # what deflate can make of one byte
_CHUNK_LIMIT = 1 << 30  # HDF5 unpacks a chunk as a whole
EPISODE_LIMIT = 1 << 28  # bytes: an episode is read at once, and copied a few times on its way


def open_hdf5(path: Path) -> Any:
    """An HDF5 file, open for reading. StoreError for what is no regular file, OSError and others as h5py raises."""
    import h5py

    open_regular(path).close()  # HDF5 would wait for the writer of a named pipe
    return h5py.File(path, "r")


@contextlib.contextmanager
def opened(path: Path, layout: str, of: Callable[[Any], Opened]) -> Iterator[Opened]:
    """What ``of`` makes of an open file; what is wrong with either becomes a StoreError that names the file."""
    try:
        with open_hdf5(path) as file:
            yield of(file)
    except StoreError:
        raise
    except (OSError, KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: is not an HDF5 file in {layout}'s layout: {reason}") from error


@dataclass(frozen=True)
class Columns:
    """Datasets of an open file by their names, ``further`` ones among them. Each has a row for each of the steps."""

    where: str
    steps: int
    datasets: dict[str, Any]
    further: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: Any, further: tuple[str, ...] = ()) -> Columns:
        """Find the columns, and check what is said of them. StoreError names the file and the column."""
        where = str(file.filename)
        found = {name: _dataset(file, name) for name in (*NUMBERS, *FLAGS, SUCCESS, *further)}
        for name, dataset in found.items():
            if dataset is None and name not in _OPTIONAL:
                raise StoreError(f"{where}: expected the column {name!r}, got {sorted(file)!r:.200}")
        datasets = {name: dataset for name, dataset in found.items() if dataset is not None}
        columns = cls(where, _rows(where, "rewards", datasets["rewards"]), datasets, further)
        for name, dataset in datasets.items():
            columns._check(name, dataset)
        return columns

    def _check(self, name: str, dataset: Any) -> None:
        where = f"{self.where}: column {name!r}"
        if _rows(self.where, name, dataset) != self.steps:
            raise StoreError(f"{where}: expected {self.steps} rows, as of rewards, got {len(dataset)}")
        if dataset.dtype.kind not in "biuf":
            raise StoreError(f"{where}: expected numbers, got dtype {dataset.dtype}")
        if name in (*FLAGS, SUCCESS) and math.prod(dataset.shape[1:]) != 1:
            raise StoreError(f"{where}: expected one value per step, got shape {list(dataset.shape)}")
        _check_kept_here(where, dataset)

    @property
    def step_bytes(self) -> int:
        """Of the numbers of one step, at least 1."""
        return max(1, sum(_claimed(dataset) for dataset in self._numbers().values()) // max(1, self.steps))

    def check_stored(self) -> None:
        """Refuse numbers that the file cannot hold: values that nobody wrote take no room, whatever the shape.

        All columns together, since one alone may be sparse: rewards that are mostly left at 0.
        """
        _check_stored(self.where, self._numbers())

    def _numbers(self) -> dict[str, Any]:
        names = (*NUMBERS, *self.further)
        return {name: self.datasets[name] for name in names if name in self.datasets}

    @property
    def types(self) -> dict[str, np.dtype[Any]]:
        """What the further columns hold, as a store declares it."""
        found = {name: self.datasets[name] for name in self.further}
        return {name: np.dtype((column.dtype, column.shape[1:])) for name, column in found.items()}

    def numbers(self, first: int, last: int) -> dict[str, npt.NDArray[Any]]:
        """The rows of some steps."""
        return {name: np.asarray(dataset[first:last]) for name, dataset in self._numbers().items()}

    @property
    def flag_names(self) -> list[str]:
        """The columns that mark the ends of episodes."""
        return [name for name in FLAGS if name in self.datasets]

    def flags(self, first: int, last: int) -> dict[str, npt.NDArray[np.bool_]]:
        """Of some steps: which of them the file marks, by the names that it marks them under."""
        return {name: self._values(name, first, last, (0, 1)).astype(bool) for name in self.flag_names}

    def ends(self, ends: Ends, first: int, last: int) -> npt.NDArray[np.bool_]:
        """Which of some steps are said to end an episode; the file's last one always does, said or not."""
        if ends == "marked":
            found: npt.NDArray[np.bool_] = np.zeros(last - first, bool)
            for flags in self.flags(first, last).values():
                found |= flags
            return found
        return np.zeros(last - first, bool) if ends == "file" else every(int(ends), first, last)

    def success(self, first: int, last: int) -> npt.NDArray[np.int8] | None:
        """Of some steps: 1, 0, or -1 where it was not recorded. None if the file has no such column."""
        if SUCCESS not in self.datasets:
            return None
        return self._values(SUCCESS, first, last, (-1, 0, 1)).astype(np.int8)

    def _values(self, name: str, first: int, last: int, known: tuple[int, ...]) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = np.asarray(self.datasets[name][first:last]).reshape(-1)
        strange = ~np.isin(values, known)
        if strange.any():
            step = int(np.flatnonzero(strange)[0])
            wanted = ", ".join(map(str, known))
            raise StoreError(
                f"{self.where}: column {name!r}: expected the values {wanted}, "
                f"got {values[step]} at step {first + step}"
            )
        return values


def _dataset(file: Any, name: str) -> Any | None:
    """What lies in this file itself under a name, or None."""
    found = file
    for part in name.split("/"):
        if not hasattr(found, "keys"):  # a dataset, which has nothing below it
            return None
        found = own(f"{file.filename}: column {name!r}", found, part)
    return found


def own(where: str, group: Any, name: str) -> Any | None:
    """What a group itself holds under a name, or None. StoreError for a link: it could lead to any other file."""
    from h5py import HardLink

    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, HardLink):
        raise StoreError(f"{where}: expected a dataset, got a link")
    return group[name]


def _check_kept_here(where: str, dataset: Any) -> None:
    if dataset.is_virtual or dataset.external:
        raise StoreError(f"{where}: keeps its values in other files")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > _CHUNK_LIMIT:
        raise StoreError(f"{where}: expected chunks of at most {_CHUNK_LIMIT} bytes, got {chunk}")


def _check_stored(where: str, datasets: Mapping[str, Any]) -> None:
    """Refuse shapes of more bytes than the file can hold for all of some datasets together."""
    size = max((os.stat(dataset.file.filename).st_size for dataset in datasets.values()), default=0)
    stored = sum(min(dataset.id.get_storage_size(), size) for dataset in datasets.values())
    packed = any(dataset.id.get_create_plist().get_nfilters() > 0 for dataset in datasets.values())
    claimed = sum(map(_claimed, datasets.values()))
    if claimed > stored * (_MOST_COMPRESSED if packed else 1):
        shapes = ", ".join(f"{name!r} {list(dataset.shape or ())}" for name, dataset in datasets.items())
        raise StoreError(
            f"{where}: columns {shapes:.400}: expected the {claimed} bytes of these shapes, got {stored} "
            "stored bytes: values were never written"
        )


def check_episode(where: str, datasets: Mapping[str, Any]) -> None:
    """Check datasets before they are read at once. StoreError says where, and which.

    Refused are values that were never written, and more than ``EPISODE_LIMIT`` bytes.
    """
    _check_stored(where, datasets)
    claimed = sum(map(_claimed, datasets.values()))
    if claimed > EPISODE_LIMIT:
        raise StoreError(f"{where}: expected an episode of at most {EPISODE_LIMIT} bytes, got {claimed}")


def own_datasets(where: str, file: Any, name: str) -> dict[str, Any]:
    """All datasets under a name, by their paths below it. StoreError for links, and values of other files."""
    from h5py import Dataset, Group

    datasets: dict[str, Any] = {}
    pending, groups = [(file, name, name)], set()
    while pending:
        group, part, path = pending.pop()
        found = own(f"{where}: {path!r}", group, part)
        if isinstance(found, Dataset):
            _check_kept_here(f"{where}: {path!r}", found)
            datasets[path] = found
        elif isinstance(found, Group):
            if found in groups:  # and so perhaps below itself, without an end
                raise StoreError(f"{where}: {path!r}: expected a group of one name, got one with several")
            groups.add(found)
            pending.extend((found, child, f"{path}/{child}") for child in found)
    return datasets


def _claimed(dataset: Any) -> int:
    """The bytes that a dataset's shape says it has."""
    return 0 if dataset.shape is None else int(math.prod(dataset.shape) * dataset.dtype.itemsize)


def _rows(where: str, name: str, dataset: Any) -> int:
    shape = getattr(dataset, "shape", None)  # a group has none, and that of a single value is empty
    if not shape:
        raise StoreError(f"{where}: column {name!r}: expected a dataset of rows, got {dataset!r:.80}")
    return int(shape[0])
