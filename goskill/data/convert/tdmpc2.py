"""TD-MPC2's multi-task datasets MT30 and MT80: TensorDicts of episodes in files that torch.save wrote."""

from __future__ import annotations

import functools
import importlib.resources
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.convert.copying import Member, Part, Source, copy_source
from goskill.data.convert.fingerprints import stamp
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.torch_archive import TorchArchive
from goskill.data.convert.transitions import Content, SourceBlock, named
from goskill.data.episode import CheckedBlock
from goskill.errors import InputError, StoreError, closest

_BYTES_PER_PART = 1 << 23
_METAWORLD = "mw-"
_AXES = {"obs": 3, "action": 3, "reward": 2}

Array = npt.NDArray[Any]


@functools.lru_cache(1)
def known_tasks() -> list[tuple[str, int, int]]:
    """Names here, observation and action dimensions of TD-MPC2's 80 tasks, in the order of their indices."""
    text = importlib.resources.files("goskill.data.convert").joinpath("tdmpc2_tasks.txt").read_text("utf-8")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return [(name.removeprefix(_METAWORLD), int(states), int(actions)) for name, states, actions in rows]


def from_tdmpc2(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    member: Member | None = None,
) -> ConversionReport:
    """Convert chunks of TD-MPC2's datasets (a ``.pt`` file, or a folder of them) into a store, going on where an
    earlier call was interrupted.

    A chunk is a pickled TensorDict [episodes, T + 1] of ``obs``, ``action``, ``reward`` and ``task``; the pickle is
    read without running anything of it. Row t holds the action and the reward that led to observation t, so that an
    episode has the T actions of rows 1 and on, whatever row 0 says. Observations and actions are padded with zeros to
    those of the largest task: padding is checked, and dropped as far as all converted tasks have it. Nothing says
    whether episodes succeeded. No task terminates: ``terminated`` is always False, and ``truncated`` True at the last
    step (where the 500 steps of DMControl were cut into pieces of 100, too).

    Every step stands for two of the environment's, whose rewards were added up: the store's ``action_repeat`` is 2.
    MetaWorld's rewards are of version 2.

    ``tasks``: only these (``reach``, ``walker-walk``); by default all that the chunks' rows are wide enough for, which
    are DMControl's 30 in MT30, and all 80 in MT80. Of these, the report names those without episodes. ``workers``:
    processes that read, 0 for all cores. ``progress`` is called with (parts done, parts): a part is 8 MiB of
    observations, and a few are in memory at a time. ``member``: this is one of several sources.

    Returns the report, also written to ``conversion.json``. Raises InputError for unknown tasks, StoreError that
    names the file and the episodes, or WorkerDied when a process is killed (calling again goes on).
    """
    root = Path(source)
    if not root.exists():
        raise StoreError(f"{root}: there is no such file or folder")
    files = sorted(root.glob("*.pt"), key=_number) if root.is_dir() else [root]
    if not files:
        raise StoreError(f"{root}: found no .pt files")
    chosen = _fitting(files[0], chosen_tasks(tasks), tasks is not None)
    names = [known_tasks()[index][0] for index in chosen]
    sizes = [known_tasks()[index][1:] for index in chosen]
    details: dict[str, Any] = {"action_repeat": 2, "reward": "summed over the action repeat"}
    if any(is_metaworld(index) for index in chosen):
        details |= {"environments": "MetaWorld v2", "reward_version": "v2"}
    chunks = Source(
        root,
        "tdmpc2",
        details,
        [part for file in files for part in _parts(file)],
        functools.partial(read_episodes, chosen=tuple(chosen)),
        columns={"terminated": "?", "truncated": "?"},
        known_tasks=names,
        known_dimensions=(max(size for size, _ in sizes), max(size for _, size in sizes)),
        member=member,
    )
    return copy_source(chunks, path, workers, progress)


def is_metaworld(index: int) -> bool:
    """Whether a task is one of MetaWorld's, which follow DMControl's 30."""
    return index >= 30


def _number(file: Path) -> tuple[int, str]:
    digits = "".join(letter for letter in file.stem if letter.isdigit())
    return int(digits or 0), file.name


def chosen_tasks(tasks: Sequence[str] | None) -> list[int]:
    """Indices of the tasks of those names, by default of all. InputError names an unknown one."""
    names = [name for name, _, _ in known_tasks()]
    if tasks is None:
        return list(range(len(names)))
    if not tasks:
        raise InputError("tasks: expected at least one task, got none")
    for task in tasks:
        if task.removeprefix(_METAWORLD) not in names:
            raise InputError(f"tasks: expected tasks of TD-MPC2, got {task!r:.80}; {closest(task, names)}")
    return sorted({names.index(task.removeprefix(_METAWORLD)) for task in tasks})


def _fitting(path: Path, chosen: list[int], named: bool) -> list[int]:
    """The tasks that rows of a chunk have room for. InputError for one that was named and is not among them."""
    widths = [_opened(path).tensors[name].shape[2] for name in ("obs", "action")]
    fitting = [index for index in chosen if np.all(np.array(known_tasks()[index][1:]) <= widths)]
    if named and len(fitting) < len(chosen):
        name, states, actions = next(known_tasks()[index] for index in chosen if index not in fitting)
        raise InputError(
            f"tasks: expected tasks that {path} may have, whose rows are of {widths[0]} observations and {widths[1]} "
            f"actions, got {name!r} of {states} and {actions}"
        )
    if not fitting:
        raise StoreError(f"{path}: expected rows of some task of TD-MPC2, got {widths[0]} observations")
    return fitting


def _opened(path: Path) -> TorchArchive:
    return _archive(path, stamp(path))


@functools.lru_cache(2)
def _archive(path: Path, known: tuple[int, ...]) -> TorchArchive:
    """The tensors of a file as it is now, checked against one another."""
    archive = TorchArchive(path)
    found = {name: tensor.shape for name, tensor in archive.tensors.items()}
    if not set(_AXES) | {"task"} <= set(found):
        raise StoreError(f"{path}: expected obs, action, reward and task, got {', '.join(found):.200}")
    episodes, rows = found["obs"][:2] if len(found["obs"]) == 3 else (0, 0)
    wrong = [
        name
        for name, axes in _AXES.items()
        if len(found[name]) != axes or found[name][:2] != (episodes, rows)
    ]
    if found["task"] not in ((episodes,), (episodes, rows)):
        wrong.append("task")
    if wrong or rows < 2 or not episodes:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in found.items())
        raise StoreError(
            f"{path}: expected obs, action, reward and task of [episodes, steps + 1], got {shapes:.300}"
        )
    return archive


def _parts(path: Path) -> list[Part]:
    """Runs of episodes. The first one stands for the checksums of the whole file, too."""
    episodes, *rows = _opened(path).tensors["obs"].shape
    step = max(1, _BYTES_PER_PART // (4 * int(np.prod(rows))))
    return [Part((path, i, min(i + step, episodes), i == 0), (path,)) for i in range(0, episodes, step)]


def read_episodes(key: tuple[Path, int, int, bool], chosen: tuple[int, ...]) -> Content:
    """The episodes of some tasks among those from ``first`` to ``last``. StoreError names the file and where."""
    path, first, last, check = key
    archive = _opened(path)
    if check:
        archive.check_values()
    where = f"{path}: episodes {first} to {last}"
    indices = _task_indices(where, archive.rows("task", first, last))
    kept = np.flatnonzero(np.isin(indices, chosen))
    if not len(kept):
        return Content([])
    columns = {name: archive.rows(name, first, last) for name in _AXES}
    if len(kept) < len(indices):
        columns, indices = {name: rows[kept] for name, rows in columns.items()}, indices[kept]
    block = _block(where, columns, indices, chosen)
    names = [known_tasks()[index][0] for index in indices]
    return Content([], blocks=[SourceBlock(str(path), (first + kept).tolist(), names, block)])


def _task_indices(where: str, tasks: Array) -> Array:
    """The task of each episode [E]. StoreError for one that changes on the way, and for unknown ones."""
    first = tasks if tasks.ndim == 1 else tasks[:, 0]
    if tasks.ndim == 2 and (tasks != first[:, None]).any():
        raise StoreError(f"{where}: expected one task in an episode, got another on its way")
    strange = first[~np.isin(first, np.arange(len(known_tasks())))]
    if strange.size:
        raise StoreError(f"{where}: expected tasks 0 to {len(known_tasks()) - 1}, got {strange[0]}")
    return first.astype(np.int64)


def _block(where: str, columns: dict[str, Array], indices: Array, chosen: tuple[int, ...]) -> CheckedBlock:
    sizes = np.array([known_tasks()[index][1:] for index in range(len(known_tasks()))])
    observations, actions = columns["obs"], columns["action"][:, 1:]
    for kind, rows, dims in (
        ("obs", observations, sizes[indices, 0]),
        ("action", actions, sizes[indices, 1]),
    ):
        for dim in np.unique(dims):
            padding = rows[dims == dim][..., dim:]
            if rows.shape[2] < dim or (padding != 0).any():
                task = known_tasks()[indices[dims == dim][0]][0]
                raise StoreError(
                    f"{where}: {kind}: expected {dim} values for tasks such as {task}, and zeros behind them, "
                    f"got others of {rows.shape[2]}"
                )
    widths = sizes[list(chosen)].max(axis=0)
    lasts = np.zeros(actions.shape[:2], bool)
    lasts[:, -1] = True
    with named(where):
        return CheckedBlock.of(
            _wide(observations, widths[0]),
            _wide(actions, widths[1]),
            columns["reward"][:, 1:],
            {"terminated": np.zeros_like(lasts), "truncated": lasts},
        )


def _wide(rows: Array, width: int) -> Array:
    """Rows of exactly that many values, padded with zeros."""
    if rows.shape[2] >= width:
        return rows[..., :width]
    return np.pad(rows, [(0, 0), (0, 0), (0, width - rows.shape[2])])
