"""The field's MetaWorld datasets: npz files in the layouts of GO-Skill, MTDiff and HarmoDT."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from goskill.data.convert.archive import read_arrays
from goskill.data.convert.copying import Part, Source, copy_source
from goskill.data.convert.ends import FLAGS, Ends, check_ends, check_marked, check_whole, every, flags_of
from goskill.data.convert.prompts import copy_prompts
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, columns_of, content_of
from goskill.data.store import EpisodeStore
from goskill.errors import InputError, StoreError, closest

_FILES_PER_JOB = 32
_JOB_BYTES = 1 << 23  # of files that are read at once: several times as much is in memory
_COLUMNS = ("observations", "actions", "rewards", "next_observations", *FLAGS)
_QUALITIES = {"near-optimal": "expert", "sub-optimal": "medium"}
_VERSION = re.compile(r"-v[0-9]+$")

LAYOUTS = ("goskill", "mtdiff", "harmodt")


def _numbered(files: Iterable[Path]) -> list[Path]:
    """In numeric order of the file names; names without a number come last."""
    numbers = {file: [int(n) for n in re.findall(r"[0-9]+", file.stem)] for file in files}
    return sorted(numbers, key=lambda file: (not numbers[file], numbers[file], file.name))


def _task_folders(root: Path, layout: str, tasks: Sequence[str] | None) -> list[Path]:
    """The folders with a task's episodes, of ``tasks`` or of all."""
    base = root / "metaworld" if layout == "goskill" and (root / "metaworld").is_dir() else root
    if not base.is_dir():
        raise StoreError(f"{base}: there is no such folder")
    pattern = "*/dataset/*.npz" if layout == "mtdiff" else "*.npz"
    folders = [
        folder for folder in sorted(base.iterdir()) if folder.is_dir() and next(folder.glob(pattern), None)
    ]
    if not folders:
        raise StoreError(f"{base}: found no task folders with {pattern} files of the {layout} layout")
    if tasks is None:
        return folders
    there = {_VERSION.sub("", folder.name) for folder in folders}
    wanted = {_VERSION.sub("", task) for task in tasks}
    missing = sorted(wanted - there)
    if missing:
        raise InputError(
            f"tasks: {base} has no episodes of {', '.join(missing)} ({missing[0]}: {closest(missing[0], there)})"
        )
    return [folder for folder in folders if _VERSION.sub("", folder.name) in wanted]


def _limit(layout: str, quality: str) -> int:
    limits = {"near-optimal": 2000, "sub-optimal": 1000}
    return limits[quality] - (2 if layout == "harmodt" else 0)


def _parts(folders: Sequence[Path], layout: str, limit: int) -> list[Part]:
    parts = []
    for folder in folders:
        pattern = "*/dataset/*.npz" if layout == "mtdiff" else "*.npz"
        task = _VERSION.sub("", folder.name)
        # A file holds at least one episode.
        parts += [Part(file, (file,), task) for file in _numbered(folder.glob(pattern))[:limit]]
    return parts


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # who reads it says what is wrong with it


def _files_per_job(parts: Sequence[Part]) -> int:
    """Fewer of large files, since a process is sent a whole job's answer."""
    largest = max(_size(part.key) for part in parts)
    return max(1, min(_FILES_PER_JOB, _JOB_BYTES // max(largest, 1)))


def _prompt_file(root: Path, layout: str, folder: Path, quality: str) -> Path | None:
    if layout == "goskill":
        return folder.parent / "prompt" / f"{folder.name}-prompt-{_QUALITIES[quality]}.npy"
    if layout == "mtdiff":
        candidates = [
            base / "metaworld_prompts" / f"{folder.name}_prompt.npy" for base in (root, root.parent)
        ]
        return next((file for file in candidates if file.exists()), candidates[0])
    return None


def read_file(path: Path, ends: Ends | None) -> Content:
    """The episodes of one npz file, which is one episode if ``ends`` is None. StoreError names the file."""
    where = str(path)
    columns = columns_of(where, read_arrays(path, _COLUMNS))
    steps, flags = len(columns["rewards"]), flags_of(where, columns)
    marked = np.logical_or.reduce([np.zeros(steps, bool), *flags.values()])
    if ends == "marked":
        check_marked(where, flags, bool(marked.any()))
        return dataclasses.replace(content_of(where, columns, marked), ends=list(flags))
    if ends is None and marked[:-1].any():
        raise StoreError(
            f"{where}: {', '.join(flags)}: expected one episode in a file, as in this layout, got an end at step "
            f"{int(marked.argmax())} of {steps}: give ends='marked' to cut there, or ends='file' to keep it whole"
        )
    if isinstance(ends, int):
        check_whole(where, steps, ends)
        return content_of(where, columns, every(ends, 0, steps))
    return content_of(where, columns, np.zeros(steps, bool))


def from_npz(
    layout: str,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    quality: str = "near-optimal",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    tasks: Sequence[str] | None = None,
    ends: Ends | None = None,
) -> ConversionReport:
    """Convert a dataset of npz files into a store, going on where an earlier call was interrupted.

    Parameters
    ----------
    layout: "goskill" (``metaworld/<task>/<i>.npz``), "harmodt" (``<task>/<i>.npz``), both with an episode in a file,
        or "mtdiff" (``<task>/<sub>/dataset/*.npz``, cut where flags end episodes).
    source: the dataset's root folder. path: the store.
    quality: "near-optimal" (the first 2000 episodes of a task; 1998 for harmodt) or "sub-optimal" (the
        first half).
    workers: processes that read files, 0 for all cores.
    progress: called with (files done, files).
    tasks: only these, with or without a version suffix; by default all that have a folder.
    ends: "marked" cuts where a flag ends an episode (``terminals``, ``timeouts``, ``dones`` or one of their other
        names: :data:`goskill.data.convert.ends.FLAGS`), "file" takes a file as one episode, a number gives the steps
        of every episode. By default as the layout has it. Files that mark no end ("mtdiff"), or mark one inside of
        their episode, are refused.

    Every file is checked: columns, shapes, dtypes, finite values that fit float32. Where
    ``next_observations[t]`` is not ``observations[t + 1]``, by more than rounding, the episode is cut, so that every
    transition stays exact; it still counts as one. A version suffix of task names ("-v2") is dropped.

    Files of prompts go into a store of their own, the folder ``prompts`` in the store's
    (:attr:`EpisodeStore.prompts`). They are kept for other code: training and evaluation here take each task's best
    episodes of the store as prompts. The report's ``prompt_episodes`` says which of the store's episodes the prompts
    are, by task; ``ContextSampler(store, ..., prompt_episodes=report.prompt_episodes)`` draws from them, if every task
    has one. A file may name 250,000 steps.

    Returns the report, also written to ``conversion.json``. Raises InputError, StoreError that names
    the file, or WorkerDied when a process is killed (calling again goes on).
    """
    root, target = Path(source), Path(path)
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if quality not in _QUALITIES:
        raise InputError(f"quality: expected 'near-optimal' or 'sub-optimal', got {quality!r}")
    if tasks is not None and not tasks:
        raise InputError("tasks: expected at least one task, got none")
    if ends is not None:
        check_ends(ends)
    limit = _limit(layout, quality)
    folders = _task_folders(root, layout, tasks)
    parts = _parts(folders, layout, limit)
    source_files = Source(
        root,
        layout,
        {"quality": quality, "reward_version": "v2", **({} if ends is None else {"ends": ends})},
        parts,
        functools.partial(read_file, ends=ends or ("marked" if layout == "mtdiff" else None)),
        _files_per_job(parts),
        limit,
    )
    complete = functools.partial(_copy_prompts, root, folders, layout, quality)
    return copy_source(source_files, target, workers, progress, complete)


def _copy_prompts(
    root: Path,
    folders: Sequence[Path],
    layout: str,
    quality: str,
    store: EpisodeStore,
    report: ConversionReport,
) -> None:
    named = {_VERSION.sub("", folder.name): _prompt_file(root, layout, folder, quality) for folder in folders}
    files = {task: file for task, file in named.items() if file is not None}
    report.missing_prompts = [task for task, file in files.items() if not file.exists()]
    report.prompt_episodes = {}
    copy_prompts({task: file for task, file in files.items() if file.exists()}, store, report)
