"""OGBench's npz files: flat observations and actions of trajectories that terminals end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import checked_columns
from goskill.data.convert.archive import read_all
from goskill.data.convert.copying import Part, Source, column_names, copy_source, unasked_column_name
from goskill.data.convert.ends import flags_of
from goskill.data.convert.fingerprints import stamp
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.rewards import check_option, rewards_of
from goskill.data.convert.transitions import Content, SourceEpisode, columns_of, named
from goskill.errors import StoreError

_SIZE_LIMIT = 1 << 32
_STEPS_PER_PART = 4_000
_KNOWN = ("observations", "actions", "rewards", "terminals", "next_observations", "masks", "valids")

Columns = dict[str, npt.NDArray[Any]]


def from_ogbench(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    task: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    missing_rewards: str | None = None,
) -> ConversionReport:
    """Convert a file of OGBench (``antmaze-large-navigate-v0.npz``) into a store, going on where an earlier call was
    interrupted.

    A trajectory ends at the row that ``terminals`` mark: its observation is the final one, and its action leads
    nowhere. No trajectory terminates: ``terminated`` is always False, and ``truncated`` True at the last step.
    Further arrays with a row per step (``qpos``, ``qvel``) become declared columns. The datasets have no rewards:
    ``missing_rewards="zero"`` stores zeros, and the store's provenance says so; otherwise that is refused.

    ``task`` names the one task, by default as the file. ``progress`` is called with (parts done, parts): a part is
    some thousand steps. The file is unpacked as a whole, and may hold 4 GiB.

    Returns the report, also written to ``conversion.json``. Raises InputError, or StoreError that names the file.
    """
    check_option(missing_rewards)
    file = Path(source)
    columns = _read(file, missing_rewards)
    ends = (np.flatnonzero(columns["terminals"]) + 1).tolist()
    parts, begin = [], 0
    for end in ends:
        if end - begin >= _STEPS_PER_PART or end == ends[-1]:
            parts.append(Part((file, begin, end), (file,), task or file.stem))
            begin = end
    further = _further(columns)
    with named(str(file)):
        names = column_names(further, unasked_column_name)
        types = {names[name]: np.dtype((rows.dtype, rows.shape[1:])) for name, rows in further.items()}
        declared = checked_columns("columns", {"terminated": "?", "truncated": "?", **types}, texts=False)
    trajectories = Source(
        file,
        "ogbench",
        {} if missing_rewards is None else {"missing_rewards": missing_rewards},
        parts,
        functools.partial(read_trajectories, missing_rewards=missing_rewards),
        columns=declared,
    )
    report = copy_source(trajectories, path, 1, progress)
    _arrays.cache_clear()
    return report


def _further(columns: Columns) -> Columns:
    return {name: rows for name, rows in columns.items() if name not in _KNOWN}


def _read(path: Path, missing_rewards: str | None) -> Columns:
    return _arrays(path, missing_rewards, stamp(path))


@functools.lru_cache(1)
def _arrays(path: Path, missing_rewards: str | None, known: tuple[int, ...]) -> Columns:
    """The arrays of a file, as it is now, that have a row per step. StoreError names the file."""
    where, found = str(path), read_all(path, _SIZE_LIMIT)
    if "next_observations" in found:
        raise StoreError(f"{where}: expected trajectories without next_observations, as OGBench's files are")
    steps = len(found["observations"]) if "observations" in found and found["observations"].ndim else 0
    rewards = rewards_of(where, found.get("rewards"), steps, missing_rewards)
    columns = columns_of(where, found | {"rewards": rewards})
    if "terminals" not in columns:
        raise StoreError(f"{where}: expected the column 'terminals', got {sorted(found)!r:.200}")
    columns["terminals"] = flags_of(where, columns)["terminals"]
    if not columns["terminals"][-1]:
        raise StoreError(f"{where}: terminals: expected the end of a trajectory at the last row, got none")
    for name, rows in _further(found).items():
        if rows.dtype.kind in "biuf" and rows.shape[:1] == (steps,):
            columns[name] = rows
    return columns


def read_trajectories(key: tuple[Path, int, int], missing_rewards: str | None) -> Content:
    """The trajectories among some rows of a file, each of two rows or more."""
    path, first, last = key
    columns = _read(path, missing_rewards)
    episodes, begin = [], first
    for end in (first + 1 + np.flatnonzero(columns["terminals"][first:last])).tolist():
        if end - begin > 1:
            steps = slice(begin, end - 1)
            declared = {unasked_column_name(name): rows[steps] for name, rows in _further(columns).items()}
            episodes.append(
                SourceEpisode.of(
                    f"{path}: rows {begin} to {end}",
                    columns["observations"][begin:end],
                    columns["actions"][steps],
                    columns["rewards"][steps],
                    columns=declared | {"terminated": np.array(False), "truncated": np.array(True)},
                )
            )
        begin = end
    return Content(episodes, ends=["terminals"])
