"""LeRobot's datasets of version 3: parquet files of frames. Needs pyarrow."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import Columns, checked_columns
from goskill.data.convert.copying import Member, Part, Source, column_names, copy_source, unasked_column_name
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.rewards import check_option, rewards_of
from goskill.data.convert.transitions import Content, columns_of, content_of, joined, named
from goskill.data.layout import is_task_name
from goskill.data.store import EpisodeStore
from goskill.data.store_files import open_regular, read_whole
from goskill.errors import InputError, StoreError, closest, optional
from goskill.files import parse_json

_METADATA_LIMIT = 1 << 26
_FILE_LIMIT = 1 << 30  # bytes of the columns that are read of a file, at once
_MOST_TASKS, _TASKS_LIMIT = 10_000, 1 << 20
_OBSERVATIONS = ("observation.environment_state", "observation.state")  # the first that is there
_ORDER = ("episode_index", "frame_index", "task_index")
_NOT_KEPT = (*_ORDER, "index", "timestamp", "task_id", "action", "next.reward", "next.success")
_TYPES = {
    "float32": "f4",
    "float64": "f8",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint8": "u1",
    "bool": "?",
}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """How frames become episodes. ``names`` are those of the tasks, by their indices and, of doubled ones, ids."""

    observation: str
    features: dict[str, str]  # columns of the store, by the features that they are made of
    names: dict[int, dict[int | None, str]]
    missing_rewards: str | None
    has: frozenset[str] = field(default_factory=frozenset)


def from_lerobot(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    observation: str | None = None,
    missing_rewards: str | None = None,
    member: Member | None = None,
) -> ConversionReport:
    """Convert a dataset of LeRobot's version 3 (``meta/info.json``, ``meta/tasks.parquet``,
    ``data/chunk-*/file-*.parquet``) into a store, going on where an earlier call was interrupted.

    ``observation``: the feature that is observed, by default ``observation.environment_state``, or
    ``observation.state``. Other features of numbers become declared columns (``observation_state``); images and
    videos are left out. Success is read from ``next.success``. Nothing says what follows an episode's last frame,
    which is dropped: if it succeeded only then, the last step that is kept says so. ``missing_rewards="zero"`` stores
    zeros for datasets without ``next.reward``, and the store's provenance says so; they are refused otherwise.

    Tasks are called as the dataset does, MetaWorld's by their names. The instruction "Push the puck to a goal" means
    two of them, ``push`` and ``push-back``: ``task_id`` tells which (without it they are one task of that name), and
    the report names them.

    ``workers``: processes that read, 0 for all cores. ``progress`` is called with (files done, files): a file's
    numbers are in memory at once, at most 1 GiB. ``member``: this is one of several sources, the file of its name.

    Returns the report, also written to ``conversion.json``. Raises InputError without pyarrow, StoreError that names
    the file and the episode (or says that files are missing), or WorkerDied when a process is killed (calling again
    goes on).
    """
    _parquet()
    check_option(missing_rewards)
    root = Path(source)
    info = _info(root)
    instructions = _instructions(root)
    reading = _reading(root, info, instructions, observation, missing_rewards)
    files = [root / member.name] if member else sorted((root / "data").glob("chunk-*/file-*.parquet"))
    if not files:
        raise StoreError(f"{root / 'data'}: found no chunk-*/file-*.parquet files")
    if member is None:
        _check_complete(root, info, files)
    frames = Source(
        root,
        "lerobot",
        {"observation": reading.observation}
        | ({} if missing_rewards is None else {"missing_rewards": missing_rewards}),
        [Part(file, (file,)) for file in files],
        functools.partial(read_file, reading=reading),
        columns=_declared(root, info, reading),
        known_tasks=[name for names in reading.names.values() for name in names.values()],
        known_dimensions=(_width(root, info, reading.observation), _width(root, info, "action")),
        member=member,
    )

    def complete(_: EpisodeStore, report: ConversionReport) -> None:
        known = {text: sorted(metaworld_tasks().get(text, {}).values()) for text in instructions.values()}
        report.doubled_tasks = {text: names for text, names in known.items() if len(names) > 1}

    return copy_source(frames, path, workers, progress, complete)


def _parquet() -> Any:
    return optional("pyarrow.parquet", "LeRobot's datasets need", "pyarrow")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A parquet file. What is wrong with it becomes a StoreError that names it."""
    parquet = _parquet()
    try:
        open_regular(path).close()
        with parquet.ParquetFile(path) as file:
            yield file
    except StoreError:
        raise
    # Of a damaged file pyarrow raises one of many errors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path}: cannot be read as parquet: {reason}") from error


def _info(root: Path) -> dict[str, Any]:
    """What meta/info.json says of the dataset. StoreError for another version."""
    path = root / "meta" / "info.json"
    try:
        info = parse_json(read_whole(path, _METADATA_LIMIT, "metadata"))
    except ValueError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: is not valid JSON") from error
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if not isinstance(version, str) or not version.startswith("v3."):
        raise StoreError(
            f"{path}: expected codebase_version v3.0 or so, got {version!r:.80}: convert it with lerobot"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise StoreError(f"{path}: expected features by their names, got {features!r:.80}")
    return dict(info)


def _width(root: Path, info: dict[str, Any], name: str) -> int:
    shape = info["features"].get(name, {}).get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or shape[0] < 1:
        raise StoreError(
            f"{root / 'meta' / 'info.json'}: {name}: expected a feature of one axis, got {shape!r:.80}"
        )
    return shape[0]


def _check_complete(root: Path, info: dict[str, Any], files: list[Path]) -> None:
    """StoreError if the files do not hold the frames that the dataset has: one that is missing looks like the end."""
    there = 0
    for path in files:
        with _opened(path) as file:
            there += file.metadata.num_rows
    if there != info.get("total_frames"):
        raise StoreError(
            f"{root}: expected {info.get('total_frames')!r:.40} frames, as meta/info.json says, got {there}: "
            "files are missing, or are of another version of the dataset"
        )


def _reading(
    root: Path,
    info: dict[str, Any],
    instructions: dict[int, str],
    observation: str | None,
    missing_rewards: str | None,
) -> Reading:
    features = info["features"]
    numbers = [name for name, feature in features.items() if feature.get("dtype") in _TYPES]
    chosen = observation or next((name for name in _OBSERVATIONS if name in numbers), "")
    if chosen not in numbers:
        hint = closest(chosen, numbers) if chosen else f"known: {', '.join(numbers)}"
        raise InputError(f"observation: expected a feature of numbers of {root}, got {chosen!r:.80}; {hint}")
    kept = [name for name in numbers if name not in (*_NOT_KEPT, chosen)]
    with named(str(root / "meta" / "info.json")):
        columns = column_names(kept, unasked_column_name)
    return Reading(
        chosen,
        columns,
        _named(instructions, "task_id" in numbers),
        missing_rewards,
        frozenset(numbers),
    )


def _declared(root: Path, info: dict[str, Any], reading: Reading) -> Columns:
    types = {}
    for name, column in reading.features.items():
        feature = info["features"][name]
        shape = tuple(feature.get("shape") or ())
        types[column] = np.dtype((_TYPES[feature["dtype"]], () if shape == (1,) else shape))
    with named(str(root / "meta" / "info.json")):
        return checked_columns("features", types, texts=False)


@functools.lru_cache(1)
def metaworld_tasks() -> dict[str, dict[int | None, str]]:
    """Names of MetaWorld's tasks by their instructions, and by their ids where one means several."""
    text = importlib.resources.files("goskill.data.convert").joinpath("lerobot_tasks.txt").read_text("utf-8")
    known: dict[str, dict[int | None, str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            number, name, instruction = line.split(" ", 2)
            known.setdefault(instruction, {})[int(number)] = name
    return known


def _instructions(root: Path) -> dict[int, str]:
    """What the dataset calls its tasks, by their indices."""
    path, found = root / "meta" / "tasks.parquet", dict[int, str]()
    with _opened(path) as file:
        if file.metadata.num_rows > _MOST_TASKS or _claimed(file, None) > _TASKS_LIMIT:
            raise StoreError(
                f"{path}: expected at most {_MOST_TASKS:,} tasks of {_TASKS_LIMIT:,} bytes together"
            )
        for batch in file.iter_batches(batch_size=100):
            columns = batch.to_pydict()
            indices = columns.pop("task_index", [])
            texts: list[str] = next(
                (values for values in columns.values() if all(map(is_task_name, values))), []
            )
            if len(texts) != len(indices) or any(type(index) is not int for index in indices):
                raise StoreError(
                    f"{path}: expected task_index and texts of 1 to 200 printable characters, "
                    f"got {', '.join(batch.schema.names):.200}"
                )
            found |= dict(zip(indices, texts, strict=True))
    if len(found) != file.metadata.num_rows or len(set(found.values())) != len(found) or not found:
        raise StoreError(f"{path}: expected distinct tasks, got {len(set(found.values()))} of {len(found)}")
    return dict(sorted(found.items()))


def _named(instructions: dict[int, str], has_ids: bool) -> dict[int, dict[int | None, str]]:
    """Names of the tasks by their indices; of an instruction that means several, by their ids."""
    names: dict[int, dict[int | None, str]] = {}
    for index, text in instructions.items():
        known = metaworld_tasks().get(text, {})
        if len(known) > 1 and has_ids:
            names[index] = known
        else:
            names[index] = {None: text if len(known) != 1 else next(iter(known.values()))}
    return names


def read_file(path: Path, reading: Reading) -> Content:
    """The episodes of one file. StoreError names the file and the episode."""
    wanted = [reading.observation, "action", *_ORDER, *reading.features]
    wanted += [name for name in ("next.reward", "next.success", "task_id") if name in reading.has]
    with _opened(path) as file:
        arrays = _arrays(str(path), file, list(dict.fromkeys(wanted)))
    episodes = arrays["episode_index"]
    begins = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), len(episodes)]
    contents = [
        _episode(path, {name: rows[begin:end] for name, rows in arrays.items()}, reading)
        for begin, end in itertools.pairwise(begins)
        if end > begin
    ]
    return joined(contents, ["episode_index"])


def _arrays(where: str, file: Any, names: Sequence[str]) -> dict[str, Array]:
    """Columns of numbers as arrays [frames, ...]. StoreError names the column."""
    there = file.schema_arrow.names
    missing = [name for name in names if name not in there]
    if missing:
        raise StoreError(f"{where}: expected the column {missing[0]!r}, got {', '.join(there):.300}")
    claimed = _claimed(file, names)
    if claimed > _FILE_LIMIT:
        raise StoreError(
            f"{where}: expected at most {_FILE_LIMIT:,} bytes of numbers in a file, got {claimed:,}"
        )
    table = file.read(columns=list(names))
    return {name: _array(f"{where}: column {name!r}", table.column(name)) for name in names}


def _claimed(file: Any, names: Sequence[str] | None) -> int:
    """The bytes that some columns, or all, take at most, as the file says: many equal values take hardly any in it."""
    claimed = 0
    for group in range(file.metadata.num_row_groups):
        for place in range(file.metadata.num_columns):
            column = file.metadata.row_group(group).column(place)
            path = column.path_in_schema
            if names is None or any(path == name or path.startswith(f"{name}.") for name in names):
                claimed += max(column.total_uncompressed_size, 8 * column.num_values)
    return claimed


def _array(where: str, column: Any) -> Array:
    values, shape = column.combine_chunks(), [len(column)]
    while hasattr(values.type, "value_type"):
        sizes = set(values.value_lengths().to_pylist())
        if values.null_count or len(sizes) > 1:
            raise StoreError(
                f"{where}: expected as many values in every frame, got {sorted(map(str, sizes))!r:.80}"
            )
        shape.append(sizes.pop() if sizes else 0)
        values = values.flatten()
    if values.null_count:
        raise StoreError(f"{where}: expected a value in every frame, got none in {values.null_count}")
    array: Array = values.to_numpy(zero_copy_only=False)
    if array.dtype.kind not in "biuf":
        raise StoreError(f"{where}: expected numbers, got {column.type}")
    return array.reshape(shape)


def _episode(path: Path, arrays: dict[str, Array], reading: Reading) -> Content:
    where = f"{path}: episode {arrays['episode_index'][0]}"
    steps = len(arrays["frame_index"])
    if not np.array_equal(arrays["frame_index"].reshape(-1), np.arange(steps)):
        raise StoreError(
            f"{where}: frame_index: expected 0 to {steps - 1}, got other numbers: frames are missing"
        )
    rewards = rewards_of(where, arrays.get("next.reward"), steps, reading.missing_rewards)
    rows = {"observations": _rows(arrays[reading.observation]), "actions": _rows(arrays["action"])}
    return content_of(
        where,
        columns_of(where, rows | {"rewards": rewards}),
        np.zeros(steps, bool),
        arrays["next.success"].reshape(-1) if "next.success" in arrays else None,
        {column: arrays[name] for name, column in reading.features.items()},
        _task(where, arrays, reading.names),
    )


def _rows(values: Array) -> Array:
    """Rows [T, D]; LeRobot keeps a feature of one number as the number."""
    return values[:, None] if values.ndim == 1 else values


def _task(where: str, arrays: dict[str, Array], names: dict[int, dict[int | None, str]]) -> str:
    indices = np.unique(arrays["task_index"]).tolist()
    if len(indices) != 1 or indices[0] not in names:
        raise StoreError(f"{where}: expected one known task_index, got {indices!r:.80}")
    known = names[indices[0]]
    if None in known:
        return known[None]
    ids = np.unique(arrays["task_id"]).tolist()
    if len(ids) != 1 or ids[0] not in known:
        raise StoreError(f"{where}: expected a task_id of {known}, got {ids!r:.80}")
    return known[ids[0]]
